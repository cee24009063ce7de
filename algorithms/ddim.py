"""DDIM sampling. Song et al. 2020, arXiv 2010.02502, equation 12. No distillation: the yardstick beside every method."""

from algorithms.method import Method


class DDIM(Method):
    """g = z_t - z_t', from one timestep of the sampler to the next below: an SGD step of length 1 along -g is a DDIM step.

    diffusers' DDIMScheduler on the checkpoint's config. Start, timesteps and step length are the sampler's: no others fit.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 50}
    requires = {
        "rep.kind": "latent",
        "rep.init": "noise",
        "rep.init_std": 1.0,
        "rep.optimizer": "sgd",
        "rep.lr": 1.0,
        "schedule.timestep": "ddim",
        "schedule.weight": "constant",
    }
    any_t = False  # Its latents are as noisy as the step's own t says.

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.scheduler = prior.ddim_scheduler(steps)

    def timesteps(self):
        return self.scheduler.timesteps

    def gradient(self, z, t, progress):
        noise = self.prior.guided_noise(z, t, self.particles.text, self.particles.negative, self.s)
        return z - self.scheduler.step(noise, int(t[0]), z).prev_sample

    def points_at(self, z, t, gradient):
        return z - gradient
