"""Variational Score Distillation. Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, equations 8 and 9."""

from dataclasses import dataclass

import torch
from pydantic import PositiveInt

from algorithms.lora import add_lora
from algorithms.method import Method
from errors import Finite, Rate
from priors.prior import to_device


@dataclass
class VSDSettings:
    lora_rank: PositiveInt = 4
    """Rank of the LoRA, which makes the prior into φ."""
    lora_lr: Rate = 1e-4
    """Learning rate of φ (AdamW without weight decay)."""
    lora_updates: PositiveInt = 1
    """Updates of φ at each step."""
    lora_particles: PositiveInt | None = None
    """Particles, drawn at random, that each update learns from. None: all."""
    gamma: Finite = 0.0
    """γ: φ also descends γ ‖ε̂_φ(z_t') - ε̂(z_t'; y, t')‖², and below 0 is driven away from the prior. Wei et al.
    2023, adversarial score distillation, arXiv 2312.00739: -0.75."""


class VSD(Method):
    """g = ε̂^s(z_t; y, t) - ε̂_φ(z_t; y, t).

    The particles are samples of a distribution, and ε̂_φ estimates the score of their pictures: the prior with a
    LoRA on its attention, which each step also trains on E ‖ε̂_φ(z_t'; y, t') - ε'‖² (eq. 8) with the step's
    latents. SDS has ε in its place, as if the distribution were a point.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "dreamfusion"}
    Settings = VSDSettings

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.phi = add_lora(prior.denoiser, "phi", self.settings.lora_rank, particles.shared_generator.initial_seed())
        self.optimizer = torch.optim.AdamW(self.phi.parameters, lr=self.settings.lora_lr, weight_decay=0)

    def gradient(self, z, t, progress):
        z_t = self.prior.add_noise(z, self.particles.noise_like(z), t)
        noise = self.record("x0", z_t, self.guided_noise(z_t, t), t)
        with self.phi.active():
            noise_phi = self.prior.predict_noise(z_t, t, self.particles.text)
        return noise - self.record("lora", z_t, noise_phi, t)

    def update(self, z, t, progress):
        for _ in range(self.settings.lora_updates):
            t = self.particles.randint(0, self.prior.noising.max_t)
            noise = self.particles.noise_like(z)
            rows = self.particles.choose(self.settings.lora_particles)
            z_t, target, text = self.prior.add_noise(z, noise, t), self.prior.target(z, noise, t), self.particles.text
            if rows is not None:
                t, text = t[rows], text[rows]
                z_t, target = (part[to_device(rows, z.device)] for part in (z_t, target))
            gamma = self.settings.gamma
            unlearned = self.prior.predict(z_t, t, text) if gamma else None
            with self.phi.active():
                learned = self.prior.network(z_t, t, text)
                error = learned - target
                loss = error.square().sum() + (gamma * (learned - unlearned).square().sum() if gamma else 0)
                # The gradient of the sum, divided afterwards: float16 has no numbers small enough for the mean's.
                loss.backward()
            for parameter in self.phi.parameters:
                parameter.grad /= error.numel()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def parameters(self):
        return self.phi.parameters

    def state_dict(self):
        return {"phi": [value.detach() for value in self.phi.parameters], "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        for value, saved in zip(self.phi.parameters, state["phi"], strict=True):
            value.data.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
