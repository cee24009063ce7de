"""Learning to Optimize Denoising Scores. Yang et al. 2023, LODS, arXiv 2312.04820."""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt

from algorithms.method import Method
from priors.settings import Rate


@dataclass
class LODSSettings:
    lr: Rate = 1e-4
    """Learning rate of ∅* (AdamW without weight decay)."""
    updates: PositiveInt = 1
    """Updates of ∅* at each step."""


class LODS(Method):
    """g = (ε̂(∅*) + s (ε̂(y) - ε̂(∅*)) - ε) / s, all at z_t and t.

    SDS whose unconditional prediction is fitted to the picture. Each particle has its own text embedding ∅*, which
    starts as the negative prompt's and is trained on ‖ε̂(z_t'; ∅*, t') - ε'‖² with the step's latents. This is the
    paper's variant that learns an embedding, not the one with a LoRA.
    """

    defaults = {"algo.guidance_scale": 100.0, "schedule.weight": "dreamfusion"}
    like = "sds"
    Settings = LODSSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.y, embeddings = prior.learn(particles.y_negative)
        self.embeddings = torch.nn.ParameterList(embeddings)
        self.optimizer = torch.optim.AdamW(self.embeddings, lr=self.settings.lr, weight_decay=0)

    def gradient(self, z, t, particles, progress):
        noise, y_learned = particles.noise_like(z), self.y[particles.rows]
        z_t = self.prior.add_noise(z, noise, t)
        predicted = self.guided_noise(z_t, t, particles.y, y_learned)
        self.record("x0", z_t, predicted, t)
        return (predicted - noise) / (self.s or 1)

    def pseudo_gt(self, z, t, gradient):
        return super().pseudo_gt(z, t, gradient * (self.s or 1))  # in units of noise

    def update(self, z, t, particles, progress):
        prior = self.prior
        for _ in range(self.settings.updates):
            t_prime, noise = particles.randint(0, prior.noising.max_t), particles.noise_like(z)
            z_t = prior.add_noise(z, noise, t_prime)
            output = prior.model_output(z_t, t_prime, self.y[particles.rows])
            error = prior.to_noise(output, z_t, t_prime) - noise
            error.square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
