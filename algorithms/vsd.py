"""Variational Score Distillation. Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, equations 8 and 9."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt

from algorithms.lora import Copy, add_lora
from algorithms.method import Method
from priors.device import to_device
from priors.settings import Finite, Rate, when


@dataclass
class VSDSettings:
    phi: Literal["lora", "full", "particles"] = "lora"
    """What ε̂_φ is: the prior with a LoRA (lora), a fully trainable copy of the prior's network (full), or, without
    training, the exact noise prediction for the step's particles as a mixture of points (particles)."""
    lora_layers: Annotated[Literal["attention", "all"], when(phi="lora")] = "attention"
    """The layers with a LoRA: attention projections, or every linear layer and convolution."""
    lora_rank: Annotated[PositiveInt, when(phi="lora")] = 4
    """Rank of the LoRA."""
    lora_lr: Annotated[Rate, when(phi="lora")] = 1e-4
    """Learning rate of the LoRA (AdamW without weight decay)."""
    full_lr: Annotated[Rate, when(phi="full")] = 1e-4
    """Learning rate of the full copy (AdamW without weight decay)."""
    lora_updates: Annotated[PositiveInt, when(phi=["lora", "full"])] = 1
    """Updates of φ at each step."""
    lora_warm_up: Annotated[NonNegativeInt, when(phi=["lora", "full"])] = 0
    """Extra updates of φ at the first step, to fit it to the start."""
    lora_particles: Annotated[PositiveInt | None, when(phi=["lora", "full"])] = None
    """Number of particles, drawn at random, that each update of φ trains on. None: all."""
    gamma: Annotated[Finite, when(phi=["lora", "full"])] = 0.0
    """γ: φ also minimises γ ‖ε̂_φ(z_t') - ε̂(z_t'; y, t')‖²; γ < 0 pushes it away from the prior. Wei et al. 2023,
    adversarial score distillation, arXiv 2312.00739: -0.75."""


class VSD(Method):
    """g = ε̂^s(z_t; y, t) - ε̂_φ(z_t; y, t).

    The particles are samples of a distribution, and ε̂_φ estimates its score. ε̂_φ is the prior with a LoRA on its
    attention, trained at each step on E ‖ε̂_φ(z_t'; y, t') - ε'‖² (eq. 8) with the step's latents. SDS has ε instead,
    as if the distribution were a point.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "dreamfusion"}
    Settings = VSDSettings
    titles = {"phi": "The clean image predicted by φ"}

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        setting, self.phi = self.settings, None
        if setting.phi == "lora":
            seed = particles.shared_generator.initial_seed()
            self.phi = add_lora(prior.denoiser, "phi", setting.lora_rank, seed, setting.lora_layers)
        elif setting.phi == "full":
            self.phi = Copy(prior)
        if self.phi:
            self.weights = torch.nn.ParameterList(self.phi.parameters)
            lr = setting.lora_lr if setting.phi == "lora" else setting.full_lr
            self.optimizer = torch.optim.AdamW(self.weights, lr=lr, weight_decay=0)

    def gradient(self, z, t, particles, progress):
        z_t = self.prior.add_noise(z, particles.noise_like(z), t)
        predicted = self.guided_noise(z_t, t, particles.y, particles.y_negative)
        if self.phi:
            with self.phi.active():
                predicted_phi = self.prior.predict_noise(z_t, t, particles.y)
        else:
            predicted_phi = self.mixture_noise(z, z_t, t, particles.prompts)
        self.record("x0", z_t, predicted, t)
        self.record("phi", z_t, predicted_phi, t)
        return predicted - predicted_phi

    def mixture_noise(self, z: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        """The exact noise prediction if the data are the prompt's particles: (z_t - √ᾱ_t Σ_j p_j z_j)/√(1-ᾱ_t),
        p_j ∝ exp(-‖z_t - √ᾱ_t z_j‖² / 2(1-ᾱ_t)). With one particle it is ε, and VSD is SDS."""
        alpha, sigma = self.prior.coefficients(t, z)
        distance = (z_t[:, None] - alpha[:, None] * z[None]).flatten(2).square().sum(2)  # (B, B)
        other = torch.tensor([[a != b for b in prompts] for a in prompts], device=z.device)
        p = (-distance / (2 * sigma.flatten(1) ** 2)).masked_fill(other, -torch.inf).softmax(1)
        return (z_t - alpha * torch.einsum("ij,jchw->ichw", p, z)) / sigma

    def update(self, z, t, particles, progress):
        updates = self.settings.lora_updates + (self.settings.lora_warm_up if progress == 0 else 0)
        for _ in range(updates if self.phi else 0):
            t_prime, noise = particles.randint(0, self.prior.noising.max_t), particles.noise_like(z)
            count, y = self.settings.lora_particles, particles.y
            z_t, target = self.prior.add_noise(z, noise, t_prime), self.prior.target(z, noise, t_prime)
            if count and count < len(z):
                rows = particles.choose(count, len(z))
                t_prime, y = t_prime[rows], y[rows]
                z_t, target = (part[to_device(rows, z.device)] for part in (z_t, target))
            gamma = self.settings.gamma
            frozen = self.prior.predict(z_t, t_prime, y) if gamma else None
            with self.phi.active():
                learned = self.prior.model_output(z_t, t_prime, y)
                error = learned - target
                loss = error.square().sum() + (gamma * (learned - frozen).square().sum() if gamma else 0)
                # Backpropagate the sum and divide afterwards: the gradient of the mean would underflow in float16.
                loss.backward()
            for parameter in self.weights:
                if parameter.grad is not None:  # A layer can have no effect: the query of a 1×1 map.
                    parameter.grad /= error.numel()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
