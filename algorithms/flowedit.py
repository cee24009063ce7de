"""FlowEdit. Kulikov et al. 2024, arXiv 2412.08629."""

from algorithms.dds import DDS


class FlowEdit(DDS):
    """g = ε̂^{s}(z_t; y) - ε̂^{s_src}(z^src_t; y^src), a fresh ε each step, t falling: an edit.

    Its coupling z + z^src_t - z^src has DDS's z_t, so that it is DDS under the weight `ddim`, SGD at rate 1, with a
    guidance scale of its own for the source. The authors' SD3: 33 of 50 timesteps, s = 13.5, s_src = 3.5.
    """

    defaults = {"algo.guidance_scale": 13.5, "algo.source_guidance_scale": 3.5, "steps": 33, "rep.init": "source"}
    defaults |= {"particles": 1, "schedule.timestep": "linear", "schedule.weight": "ddim", "schedule.t_max": 0.66}
    defaults |= {"rep.optimizer": "sgd", "rep.lr": 1.0}
    edits = True
