"""The interface of a method, and what most methods have in common."""

import torch

from algorithms.guidance import perp_neg, rescale
from algorithms.particles import Particles
from algorithms.repulsion import REPULSION
from errors import InputError
from priors.prior import Prior


class Method:
    """A method is a subclass with a `gradient`; everything else here may be overridden.

    defaults    its defaults for settings, named as in sds2d.json: {"algo.guidance_scale": 7.5, "schedule.weight":
                "ism"}. A method without "algo.guidance_scale" has no guidance, and refuses the flag.
    required    values that these settings must have; others are refused
    like        the method whose entry in a checkpoint's sds2d.json is used if there is none for this one
    edits       whether it starts from a source image and prompt: particles.source, particles.y_source. Then rep.init
                is source and particles 1 by default
    is_guided   whether its gradient follows ε̂^s, so that guidance rescale and Perp-Neg have an effect
    is_sampler  whether its timesteps are those of a sampler, so that `gradient` has no meaning at any others
    Settings    a dataclass whose fields become the flags --algo.<name>.<field>
    titles      {name: title on the page} of predictions that only this method has

    Attributes of an instance:

    s            the guidance scale;  settings: the method's own Settings
    min_t        the least timestep that `gradient` can be called with
    timesteps    for samplers, the timesteps of the whole run: long (N,)
    steps        N, the length of the run
    predictions  {name: clean latents (B, C, h, w)} of the last `gradient`, for recording: "x0" is the prediction that
                 it follows;  noised: {name: z_t}; repulsion uses that of "x0"
    updates_per_step  gradients and optimiser steps at each step of the loop
    """

    defaults: dict = {}
    required: dict = {}
    like: str | None = None
    edits = False
    is_guided = True
    is_sampler = False
    Settings = None
    titles: dict = {}
    min_t = 0
    timesteps = None

    def __init__(self, prior: Prior, particles: Particles, config, steps: int):
        """config: AlgorithmConfig; steps: N, the length of the run."""
        self.prior, self.particles, self.steps = prior, particles, steps
        self.s = config.guidance_scale
        self.source_s = self.s if config.source_guidance_scale is None else config.source_guidance_scale
        self.settings = getattr(config, config.name, None)
        self.phi_rescale, self.perp_neg_weights = config.guidance_rescale, config.perp_neg_weights
        self.perp_neg = [
            particles.encode_prompt([prompt], negative=True) for prompt in config.perp_neg_prompts
        ]  # (1,) each
        self.updates_per_step = config.updates_per_step
        self.repulsion, self.repulsion_scale = config.repulsion, config.repulsion_scale
        self.predictions, self.noised = {}, {}
        self.configured = frozenset(vars(self))  # After a resume, settings come from the command.

    def gradient(self, z: torch.Tensor, t: torch.Tensor, progress: float) -> torch.Tensor:
        """Latents z (B, C, h, w), timesteps t (B,) long on the CPU → g (B, C, h, w), before the weight w(t).

        progress: the fraction of the run that is done, from 0 to 1 - 1/N.
        """
        raise NotImplementedError

    def guided_noise(self, z_t: torch.Tensor, t: torch.Tensor, text=None, negative=None, s=None) -> torch.Tensor:
        """ε̂^s(z_t; y, t) for each particle's prompt and negative prompt, with guidance scale s. text, negative and s
        replace the particle's own; k·B rows are k copies of the batch, one after another."""
        return self.prior.to_noise(self.guided(z_t, t, text, negative, s), z_t, t)

    def guided(self, z_t: torch.Tensor, t: torch.Tensor, text=None, negative=None, s=None) -> torch.Tensor:
        """The model output with guidance: Prior.guided_output, with rescaling and Perp-Neg if they are set."""
        text = self.particles.y if text is None else text
        negative = self.particles.y_negative if negative is None else negative
        s = self.s if s is None else s
        if not self.perp_neg and not self.phi_rescale:
            return self.prior.guided_output(z_t, t, text, negative, s)
        others = [torch.cat([other] * len(z_t)) for other in self.perp_neg]
        without, with_text, *others = self.prior.predict_all(z_t, t, negative, text, *others)
        direction = perp_neg(with_text - without, [other - without for other in others], self.perp_neg_weights)
        return rescale(without + s * direction, with_text, self.phi_rescale)

    def repelled(self, gradient: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The gradient (B, C, h, w) with repulsion between the particles of each prompt."""
        if self.repulsion == "none":
            return gradient
        if "x0" not in self.noised:
            raise InputError(f"--algo.repulsion {self.repulsion} needs a method that records x0")
        function, _ = REPULSION[self.repulsion]
        _, sigma = self.prior.coefficients(t, gradient)
        result = gradient.clone()
        for prompt in dict.fromkeys(self.particles.prompts):
            rows = [row for row, other in enumerate(self.particles.prompts) if other == prompt]
            result[rows] = function(gradient[rows], self.noised["x0"][rows], sigma[rows], self.repulsion_scale)
        return result

    def record(self, name: str, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Keeps the clean latents of a noise prediction (B, C, h, w) for recording, and returns the prediction."""
        self.noised[name] = z_t
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
        """State that later steps need: every tensor and number that a subclass has set as an attribute.

        A method with an optimizer, or with lists or dictionaries that change, overrides this and load_state_dict.
        """
        own = {name: value for name, value in vars(self).items() if name not in self.configured}
        return {name: value for name, value in own.items() if isinstance(value, torch.Tensor | int | float)}

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                present = getattr(self, name, None)
                value = value.to(present.device if isinstance(present, torch.Tensor) else self.prior.device)
            setattr(self, name, value)
