"""Variational Score Distillation. Wang et al. 2023, ProlificDreamer, arXiv 2305.16213, equations 8 and 9."""

import contextlib
from dataclasses import dataclass

import torch

from algorithms.method import Method
from priors.prior import to_device


@dataclass
class VSDSettings:
    lora_rank: int = 4
    """Rank of the LoRA that makes the prior into φ."""
    lora_lr: float = 1e-4
    """Its learning rate (AdamW without weight decay)."""
    lora_updates: int = 1
    """Updates of φ at each step."""
    lora_particles: int | None = None
    """Particles, drawn at random, that each update learns from. None: all."""


class VSD(Method):
    """g = ε̂^s(z_t; y, t) - ε̂_φ(z_t; y, t).

    The particles are samples of a distribution, and ε̂_φ is the score of the pictures that they make: the prior with a LoRA
    on its attention, which each step also learns E ‖ε̂_φ(z_t'; y, t') - ε'‖² (eq. 8) on the step's latents. In SDS ε stands in
    its place, as if the distribution were a point.
    """

    defaults = {"algo.guidance_scale": 7.5, "schedule.weight": "dreamfusion"}
    Settings = VSDSettings

    @classmethod
    def check(cls, settings, require):
        cls.check_counts(require, "vsd", settings, "lora_rank", "lora_updates", "lora_particles")
        require(
            0 < settings.lora_lr < 1e30, f"--algo.vsd.lora-lr {settings.lora_lr}: a rate above 0 is needed, below 1e30"
        )

    def __init__(self, prior, particles, config, steps):
        super().__init__(prior, particles, config, steps)
        self.layers, parameters = add_lora(
            prior.unet, self.settings.lora_rank, particles.shared_generator.initial_seed()
        )
        self.optimizer = torch.optim.AdamW(parameters, lr=self.settings.lora_lr, weight_decay=0)

    def optimizers(self):
        return [self.optimizer]

    @contextlib.contextmanager
    def phi(self):
        """Inside, the prior's network is φ; outside, bit for bit what it was."""
        for layer in self.layers:
            layer.enable_adapters(True)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.enable_adapters(False)

    def gradient(self, z, t, progress):
        z_t = self.prior.add_noise(z, self.particles.noise_like(z), t)
        noise = self.prior.guided_noise(z_t, t, self.particles.text, self.particles.negative, self.s)
        with self.phi():
            noise_phi = self.prior.predict_noise(z_t, t, self.particles.text)
        return noise - self.prior.note("lora", z_t, noise_phi, t)

    def update(self, z):
        for _ in range(self.settings.lora_updates):
            t = self.particles.randint(0, len(self.prior.alphas_cumprod) - 1)
            noise = self.particles.noise_like(z)
            rows = self.particles.choose(self.settings.lora_particles)
            z_t, target, text = self.prior.add_noise(z, noise, t), self.prior.target(z, noise, t), self.particles.text
            if rows is not None:
                t = t[rows]
                z_t, target, text = (part[to_device(rows, z.device)] for part in (z_t, target, text))
            with self.phi():
                error = self.prior.network(z_t, t, text) - target
                # The sum, and the mean taken of its gradient: float16 has no numbers small enough for the mean's.
                error.square().sum().backward()
            for parameter in self.optimizer.param_groups[0]["params"]:
                parameter.grad /= error.numel()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


def add_lora(unet, rank, seed):
    """A fresh LoRA, switched off, on the query, key, value and output projections of every attention → (layers, parameters).

    It starts as the identity: one of its two factors is random, the other 0. One that an earlier run left is dropped.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.functional import cast_adapter_dtype
    from peft.tuners.lora import LoraLayer

    for module in unet.modules():
        if isinstance(module, LoraLayer) and "phi" in module.lora_A:
            module.delete_adapter("phi")
    vars(unet).pop("peft_config", None)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    with torch.random.fork_rng(devices=[]):  # made on the CPU, whatever the device
        torch.manual_seed(seed)
        inject_adapter_in_model(config, unet, "phi")
    cast_adapter_dtype(unet, "phi")  # float32 on a network in half precision, whose numbers are too coarse to learn in
    layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
    parameters = [parameter for name, parameter in unet.named_parameters() if ".phi." in name]
    for layer in layers:
        layer.enable_adapters(False)
    return layers, parameters
