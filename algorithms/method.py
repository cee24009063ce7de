"""The interface of a method, and what most methods share."""

import torch

from algorithms.particles import Particles
from priors.prior import Prior


class Method:
    """A method is a subclass with a `gradient`; everything else here may be overridden.

    defaults    its own values of settings, named as in sds2d.json: {"algo.guidance_scale": 7.5, "schedule.weight":
                "ism"}. A method without "algo.guidance_scale" has no guidance, and refuses the flag.
    required    settings that it works with alone, likewise
    like        the method whose values in a checkpoint's sds2d.json hold where the file has none for this one
    edits       whether it starts from a source image and prompt: particles.source, particles.source_text
    is_sampler  whether its timesteps are those of a sampler, so that `gradient` has no meaning at any others
    Settings    a dataclass whose fields become the flags --algo.<name>.<field>

    Of an instance:

    s            the guidance scale;  settings: the method's own Settings
    min_t        the least timestep that `gradient` can be called with
    timesteps    a sampler's, of the whole run: long (N,)
    predictions  {name: (z_t, noise, t)}, what the last `gradient` predicted, for recording: "x0" is the one that it
                 follows
    """

    defaults: dict = {}
    required: dict = {}
    like: str | None = None
    edits = False
    is_sampler = False
    Settings = None
    min_t = 0
    timesteps = None

    def __init__(self, prior: Prior, particles: Particles, config, steps: int):
        """config: AlgorithmConfig; steps: N, the length of the run."""
        self.prior, self.particles = prior, particles
        self.s = config.guidance_scale
        self.source_s = self.s if config.source_guidance_scale is None else config.source_guidance_scale
        self.settings = getattr(config, config.name, None)
        self.predictions = {}

    def gradient(self, z: torch.Tensor, t: torch.Tensor, progress: float) -> torch.Tensor:
        """g for latents z (B, C, h, w) at timesteps t (B,) long on the CPU: (B, C, h, w), before the weight w(t).

        progress: the fraction of the run that is done, from 0 to 1 - 1/N.
        """
        raise NotImplementedError

    def guided_noise(self, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂^s(z_t; y, t) of each particle's prompt, with its negative prompt and the guidance scale s."""
        return self.prior.guided_noise(z_t, t, self.particles.text, self.particles.negative, self.s)

    def record(self, name: str, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Keeps the clean latents of a noise prediction (B, C, h, w) for recording, and returns the prediction."""
        self.predictions[name] = self.prior.predict_clean(z_t, noise, t)
        return noise

    def pseudo_gt(self, z: torch.Tensor, t: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The pseudo ground truth: the clean latents (B, C, h, w) that the gradient, a difference of noises, leads to.

        ẑ_0 falls by √((1-ᾱ_t)/ᾱ_t) as the noise in z_t grows by one.
        """
        alpha, sigma = self.prior.coefficients(t, z)
        return z - sigma / alpha * gradient

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the method itself learns."""
        return []

    def update(self, z: torch.Tensor, t: torch.Tensor, progress: float) -> None:
        """Learns from the step's latents z (B, C, h, w), after its gradient."""

    def state_dict(self) -> dict:
        """All that later steps need of earlier ones: every tensor and number that is an attribute.

        A method with an optimizer, or with lists or dictionaries that change, overrides this and load_state_dict.
        """
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor | int | float)}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                present = getattr(self, name, None)
                value = value.to(present.device if isinstance(present, torch.Tensor) else self.prior.device)
            setattr(self, name, value)
