"""The prior as a method sees it: a frozen diffusion model, and the mathematics of its noise.

For methods, all priors are one variance-preserving process (noising.py). checkpoint.py makes one from diffusers' files.
"""

from dataclasses import dataclass, field

import torch

from errors import InputError
from priors.autoencoder import Autoencoder
from priors.device import per_row, to_device
from priors.noising import Noising, sampling_timesteps


@dataclass(eq=False, repr=False)
class Prior:
    """A frozen text-to-image diffusion model. This class is unconditional; a subclass adds prompts, as Checkpoint does.

    Timesteps t are always long (B,) on the CPU, so that code can depend on them without waiting for the GPU.
    """

    noising: Noising
    """The noise schedule, and what the denoiser predicts."""
    denoiser: torch.nn.Module
    """The network, called as denoiser(x, time, y): the scaled input x (N, C, h, w), the time input (N,) and each row's
    condition y (N,) → (N, C, h, w). Methods that learn put their LoRA on it."""
    latent_shape: tuple[int, int, int]
    """(C, h, w) of one latent."""
    image_size: tuple[int, int]
    """(H, W) of its picture in pixels."""
    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    """Of the denoiser; latents and gradients are always float32."""
    chunk: int = 0
    """Maximum number of rows per call of the denoiser. 0: all at once."""
    autoencoder: Autoencoder | None = None
    """Encodes and decodes pictures. None: latents are pixels in [-1, 1]."""
    distilled: bool = False
    """Whether guidance is part of the denoiser already (FLUX.1, LCM)."""
    scheduler_config: dict = field(default_factory=dict)
    """How it is sampled: timestep_spacing, steps_offset, set_alpha_to_one, as in diffusers."""

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """ᾱ, float64 (T,), on the CPU."""
        return self.noising.alphas_cumprod

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return len(self.alphas_cumprod)

    @property
    def final_alpha_cumprod(self) -> float:
        """ᾱ at which sampling ends: that of the least timestep if the checkpoint's scheduler says so, else 1."""
        return 1.0 if self.scheduler_config.get("set_alpha_to_one", True) else self.alphas_cumprod[0].item()

    def sampling_timesteps(self, steps: int) -> torch.Tensor:
        """A sampler's timesteps, long (steps,), falling."""
        return sampling_timesteps(self.scheduler_config, self.noising, steps)

    # ----------------------------------------------------------------------------------------- prompts and pictures

    def encode_prompt(self, prompts: list[str], negative: bool = False) -> torch.Tensor:
        """Prompts (N) → `y` for model_output(): long (N,), on the CPU, the numbers of their conditions. All are 0 here.

        negative: encode them as negative prompts, which differ in some families; "" is the pipeline's own
        unconditional.
        """
        return torch.zeros(len(prompts), dtype=torch.long)

    def learn(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
        """Copies of the conditions y (B,) with trainable token embeddings → `y` for model_output() (B,), and the
        embeddings (1, L, D) of each, float32. They replace those of an earlier call. Raises InputError here."""
        raise InputError("this prior has no token embeddings that could be learned")

    def warnings(self, prompt: str) -> list[str]:
        """Parts of the prompt that the text encoder cannot use, as a list of lines: a cut-off end, words that are not
        in its training captions. None here."""
        return []

    def free_text_encoders(self) -> None:
        """Makes room for the denoiser on the device once all prompts are encoded. There is nothing to free here."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] → latents (B, C, h, w), differentiable."""
        return self.autoencoder.encode(images) if self.autoencoder else images * 2 - 1

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) → images (B, 3, H, W), float32, near [0, 1] and not clamped."""
        return self.autoencoder.decode(latents) if self.autoencoder else latents / 2 + 0.5

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the files that the prior is loaded from; None if there are none."""
        return None

    # ----------------------------------------------------------------------------------------------------- noise

    def coefficients(self, t: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """√ᾱ_t and √(1-ᾱ_t) for t (B,), each (B, 1, 1, 1), in the dtype and on the device of `like`. Raises
        IndexError for t outside [0, T)."""
        if t.min() < 0:
            raise IndexError(f"timestep {t.min()} is below 0")  # It would index from the noisy end.
        a = self.alphas_cumprod[t]
        return per_row(a.sqrt(), like), per_row((1 - a).sqrt(), like)

    def add_noise(self, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """z_t = √ᾱ_t z + √(1-ᾱ_t) ε."""
        alpha, sigma = self.coefficients(t, z)
        return alpha * z + sigma * noise

    def predict_clean(self, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ẑ_0 = (z_t - √(1-ᾱ_t) e) / √ᾱ_t, the clean latents for a noise prediction e."""
        alpha, sigma = self.coefficients(t, z_t)
        return (z_t - sigma * noise) / alpha

    def ddim_step(self, z_t: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        """z_t' = √ᾱ_t' ẑ_0 + √(1-ᾱ_t') e, to a smaller (denoising) or larger (inversion) timestep. Song et al. 2020,
        eq. 12."""
        return self.add_noise(self.predict_clean(z_t, noise, t), noise, to)

    # ------------------------------------------------------------------------------------------------ the denoiser

    def model_output(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The denoiser's raw output (ε̂, ẑ_0, v or a flow), in z_t's dtype: z_t (N, C, h, w), t (N,), y (N,)."""
        x, time = self.noising.scale[t], self.noising.time[t]
        x = (z_t if (x == 1).all() else per_row(x, z_t) * z_t).to(self.dtype)
        time = to_device(time if time.dtype == torch.long else time.float(), x.device)
        rows = self.chunk or len(x)
        parts = [self.denoise(*part) for part in zip(x.split(rows), time.split(rows), y.split(rows), strict=True)]
        return torch.cat(parts).to(z_t.dtype) if len(parts) > 1 else parts[0].to(z_t.dtype)

    def denoise(self, x: torch.Tensor, time: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """One call of the denoiser with its scaled input x (N, C, h, w), time input (N,) and y (N,)."""
        return self.denoiser(x, time, y)

    def target(self, z: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's training target for add_noise(z, noise, t): ε, z, v = √ᾱ_t ε - √(1-ᾱ_t) z, or ε - z."""
        if self.noising.prediction_type == "epsilon":
            return noise
        a, b = (per_row(values[t], z) for values in self.noising.target_from_noise)
        return a * noise + b * z

    def to_noise(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ε̂ from the model output at z_t; for a v-prediction (Salimans and Ho 2022, arXiv 2202.00512)
        √ᾱ_t v + √(1-ᾱ_t) z_t."""
        if self.noising.prediction_type == "epsilon":
            return output
        a, b = (per_row(values[t], z_t) for values in self.noising.noise_from_output)
        return a * output + b * z_t

    def to_clean(self, output: torch.Tensor, z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """ẑ_0 from the model output at z_t; finite even at ᾱ_t = 0, except for an ε-prediction."""
        a, b = (per_row(values[t], z_t) for values in self.noising.clean_from_output)
        return a * output + b * z_t

    @torch.no_grad()
    def predict(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """model_output() without an autograd graph."""
        return self.model_output(z_t, t, y)

    def predict_noise(self, z_t: torch.Tensor, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """ε̂(z_t; y, t), one call of the network, no autograd graph."""
        return self.to_noise(self.predict(z_t, t, y), z_t, t)

    def predict_all(self, z_t: torch.Tensor, t: torch.Tensor, *ys: torch.Tensor) -> list[torch.Tensor]:
        """predict() for several prompts with the same latents, in one call of the network; equal ones share a row."""
        which = [next(i for i, other in enumerate(ys) if torch.equal(y, other)) for y in ys]
        different = sorted(set(which))
        n, given = len(different), torch.cat([ys[i] for i in different])
        outputs = self.predict(torch.cat([z_t] * n), torch.cat([t] * n), given).chunk(n)
        return [outputs[different.index(i)] for i in which]

    def predict_noises(self, z_t: torch.Tensor, t: torch.Tensor, *ys: torch.Tensor) -> list[torch.Tensor]:
        """ε̂(z_t; y, t) for several prompts y with the same latents, in one call of the network."""
        return [self.to_noise(output, z_t, t) for output in self.predict_all(z_t, t, *ys)]

    def guided_output(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, scale) -> torch.Tensor:
        """o(y⁻) + s (o(y) - o(y⁻)) for model outputs o, classifier-free guidance (Ho and Salimans 2022, arXiv
        2207.12598), in one call of 2B rows; B rows if s is 0 or 1, which needs only one of the two.

        scale: one number, or one per row, (B, 1, 1, 1)."""
        if not isinstance(scale, torch.Tensor) and scale in (0, 1):
            return self.predict(z_t, t, y if scale else y_negative)
        without, with_y = self.predict_all(z_t, t, y_negative, y)
        return without + scale * (with_y - without)

    def guided_noise(self, z_t: torch.Tensor, t: torch.Tensor, y, y_negative, scale) -> torch.Tensor:
        """ε̂^s = ε̂(y⁻) + s (ε̂(y) - ε̂(y⁻))."""
        return self.to_noise(self.guided_output(z_t, t, y, y_negative, scale), z_t, t)
