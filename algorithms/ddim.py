"""DDIM sampling. Song et al. 2020, arXiv 2010.02502, equation 12. Not distillation, but the reference for every
method."""

from algorithms.method import Method


class DDIM(Method):
    """g = z_t - z_t', where t' is the sampler's next timestep. One SGD step at rate 1 is one DDIM step (with a flow
    prior, one Euler step), so the start, timesteps and learning rate are fixed.
    """

    defaults = {"algo.guidance_scale": 7.5, "steps": 50}
    required = {"rep.kind": "latent", "rep.init": "noise", "rep.init_std": 1.0, "rep.optimizer": "sgd", "rep.lr": 1.0}
    required |= {"schedule.timestep": "ddim", "schedule.weight": "constant"}
    is_sampler = True

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.timesteps = prior.sampling_timesteps(steps)

    def gradient(self, z, t, particles, progress):
        output = self.guided(z, t, particles.y, particles.y_negative)
        noise, clean = self.prior.to_noise(output, z, t), self.prior.to_clean(output, z, t)
        self.predictions["x0"] = clean
        later = self.timesteps[self.timesteps < t[0]]
        if len(later):
            return z - self.prior.add_noise(clean, noise, later[:1].expand(len(z)))
        a = self.prior.final_alpha_cumprod
        return z - (a**0.5 * clean + (1 - a) ** 0.5 * noise)

    def pseudo_gt(self, z, t, gradient):
        return z - gradient
