"""The interface of a method, and what most methods have in common."""

import torch

from algorithms.guidance import perp_neg, rescale
from algorithms.particles import Particles
from algorithms.repulsion import REPULSION
from errors import InputError
from priors.prior import Prior


class Method(torch.nn.Module):
    """A method is a subclass with a `gradient`; everything else here may be overridden.

    What later steps need is kept as in any torch.nn.Module, and is then in every checkpoint: tensors as buffers
    (register_buffer), what is learned as parameters, and its optimizer as `self.optimizer`. Anything else that changes
    during a run ends it with an error at the first checkpoint.

    defaults    its defaults for settings, named as in sds2d.json: {"algo.guidance_scale": 7.5, "schedule.weight":
                "ism"}. A method without "algo.guidance_scale" has no guidance, and refuses the flag.
    required    values that these settings must have; others are refused
    like        the method whose entry in a checkpoint's sds2d.json is used if there is none for this one
    edits       whether it starts from a source image and prompt: particles.source, particles.y_source. Then rep.init
                is source and particles 1 by default
    is_guided   whether its gradient follows ε̂^s, so that guidance rescale and Perp-Neg have an effect
    is_sampler  whether its timesteps are those of a sampler, so that `gradient` has no meaning at any others
    titles      {name: title} of the predictions that it records besides x0
    Settings    a dataclass whose fields become the flags --algo.<name>.<field>

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
    titles: dict[str, str] = {}
    Settings = None
    min_t = 0
    timesteps = None
    optimizer: torch.optim.Optimizer | None = None

    def __init__(self, prior: Prior, particles: Particles, config, steps: int):
        """particles: all of the run; config: AlgorithmConfig; steps: N, the length of the run."""
        super().__init__()
        self.prior, self.steps = prior, steps
        self.s = config.guidance_scale
        self.source_s = self.s if config.source_guidance_scale is None else config.source_guidance_scale
        self.settings = getattr(config, config.name, None)
        self.phi_rescale, self.perp_neg_weights = config.guidance_rescale, config.perp_neg_weights
        perp_neg_prompts = config.perp_neg_prompts
        self.y_perp_neg = [particles.encode_prompt([prompt], negative=True) for prompt in perp_neg_prompts]  # (1,) each
        self.updates_per_step = config.updates_per_step
        self.repulsion, self.repulsion_scale = config.repulsion, config.repulsion_scale
        self.predictions, self.noised = {}, {}
        self.configured = frozenset(vars(self))  # the attributes that all methods have

    def gradient(self, z: torch.Tensor, t: torch.Tensor, particles: Particles, progress: float) -> torch.Tensor:
        """Latents z (B, C, h, w), timesteps t (B,) long on the CPU → g (B, C, h, w), before the weight w(t).

        particles: those of this step; particles.rows says which rows of the run they are
        progress: the fraction of the run that is done, from 0 to 1 - 1/N
        """
        raise NotImplementedError

    def update(self, z: torch.Tensor, t: torch.Tensor, particles: Particles, progress: float) -> None:
        """Learns from the step's latents z (B, C, h, w), after its gradient."""

    def guided_noise(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, s=None) -> torch.Tensor:
        """ε̂^s(z_t; y, t) with all guidance settings of the user. y and y_negative: numbers of conditions, one per row
        of z_t. s: another guidance scale, one number or (N, 1, 1, 1)."""
        return self.prior.to_noise(self.guided(z_t, t, y, y_negative, s), z_t, t)

    def guided(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, s=None) -> torch.Tensor:
        """The model output with guidance: Prior.guided_output, with rescaling and Perp-Neg if they are set."""
        s = self.s if s is None else s
        if not self.y_perp_neg and not self.phi_rescale:
            return self.prior.guided_output(z_t, t, y, y_negative, s)
        others = [torch.cat([other] * len(z_t)) for other in self.y_perp_neg]
        without, with_y, *others = self.prior.predict_all(z_t, t, y_negative, y, *others)
        direction = perp_neg(with_y - without, [other - without for other in others], self.perp_neg_weights)
        return rescale(without + s * direction, with_y, self.phi_rescale)

    def repelled(self, gradient: torch.Tensor, t: torch.Tensor, particles: Particles) -> torch.Tensor:
        """The gradient (B, C, h, w) with repulsion between the particles of each prompt."""
        if self.repulsion == "none":
            return gradient
        if "x0" not in self.noised:
            raise InputError(f"--algo.repulsion {self.repulsion} needs a method that records x0")
        function, _ = REPULSION[self.repulsion]
        _, sigma = self.prior.coefficients(t, gradient)
        result = gradient.clone()
        for prompt in dict.fromkeys(particles.prompts):
            rows = [row for row, other in enumerate(particles.prompts) if other == prompt]
            result[rows] = function(gradient[rows], self.noised["x0"][rows], sigma[rows], self.repulsion_scale)
        return result

    def record(self, name: str, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> None:
        """Keeps the clean latents of a noise prediction (B, C, h, w) for recording."""
        self.noised[name] = z_t
        self.predictions[name] = self.prior.predict_clean(z_t, noise, t)

    def pseudo_gt(self, z: torch.Tensor, t: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """The pseudo ground truth: the clean latents (B, C, h, w) that the gradient, a difference of noises, leads to.

        ẑ_0 falls by √((1-ᾱ_t)/ᾱ_t) as the noise in z_t grows by one.
        """
        alpha, sigma = self.prior.coefficients(t, z)
        return z - sigma / alpha * gradient

    def get_extra_state(self) -> dict:
        """The state of the optimizer, which state_dict() of a Module does not hold by itself."""
        return self.optimizer.state_dict() if self.optimizer else {}

    def set_extra_state(self, state: dict) -> None:
        self.prior.free_text_encoders()  # Then the denoiser, and a LoRA in it, are where Adam's state has to be.
        if self.optimizer:
            self.optimizer.load_state_dict(state)
