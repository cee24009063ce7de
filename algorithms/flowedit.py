"""FlowEdit. Kulikov et al. 2024, arXiv 2412.08629."""

from algorithms.dds import DDS


class FlowEdit(DDS):
    """g = ε̂^{s}(z_t; y) - ε̂^{s_src}(z^src_t; y^src), with a fresh ε at each step and falling t: an edit.

    The paper's state is Z = z^src + (1-σ_t) (z - z^src), where x_t = (1-σ_t) z + σ_t ε. Its coupled
    Z + x^src_t - z^src is the noised z of DDS, and its Euler step is DDS with the weight `ddim` and SGD at rate 1. At
    σ = 0, Z is z: the final edits agree, intermediate pictures differ. The authors' settings for SD3: 33 of 50
    timesteps, s = 13.5, s_src = 3.5.
    """

    defaults = {"algo.guidance_scale": 13.5, "algo.source_guidance_scale": 3.5, "steps": 33}
    defaults |= {"schedule.timestep": "linear", "schedule.weight": "ddim", "schedule.t_max": 0.66}
    defaults |= {"rep.optimizer": "sgd", "rep.lr": 1.0}
