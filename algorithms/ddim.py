"""DDIM sampling. Song et al. 2020, arXiv 2010.02502, equation 12. Not a distillation: the reference for every
method."""

from algorithms.method import Method


class DDIM(Method):
    """g = z_t - z_t', from one timestep of the sampler to the next: an SGD step of length 1 along -g is a DDIM step.

    diffusers' DDIMScheduler on the checkpoint's config. Its start, timesteps and step length are the only ones that
    fit.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 50}
    required = {"rep.kind": "latent", "rep.init": "noise", "rep.init_std": 1.0, "rep.optimizer": "sgd", "rep.lr": 1.0}
    required |= {"schedule.timestep": "ddim", "schedule.weight": "constant"}
    is_sampler = True

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.scheduler = prior.ddim_scheduler(steps)
        self.timesteps = self.scheduler.timesteps

    def gradient(self, z, t, progress):
        noise = self.record("x0", z, self.guided_noise(z, t), t)
        return z - self.scheduler.step(noise, int(t[0]), z).prev_sample

    def pseudo_gt(self, z, t, gradient):
        return z - gradient
