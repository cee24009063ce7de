"""The batch: each row's prompt, its source picture, and its own random numbers."""

import copy
import hashlib

import torch

from priors.device import to_device
from priors.prior import Prior


class Particles:
    """B rows, each with one prompt and one seed. Every list and every tensor here has one entry per row.

    prompts, y                             of each row: the prompt, and the number of its condition, long (B,), from
                                           Prior.encode_prompt
    negative_prompts, y_negative           y⁻, likewise;  y_empty: the numbers of ∅
    source_images, source                  pictures to edit (B, 3, H, W) and their latents (B, C, h, w), or None
    source_prompts, y_source               the prompts that describe them, likewise, or None
    source_negative_prompts, y_source_negative    y⁻ of the source, likewise
    rows                                   their places in the run: slice(None) for all, long (b,) after select()
    seen_prompts                           every prompt that has been encoded

    Row i has its own generator, seeded with seed + i, or its own seed. So its path does not depend on the rest of the
    batch, and row i of seed s equals row 0 of seed s + i (unless the rows share their timesteps). The generators are on
    the CPU: every device gets the same numbers.
    """

    rows = slice(None)

    def __init__(
        self,
        prior: Prior,
        prompts: list[str],
        negative_prompts: str | list[str] = "",
        seed: int | list[int] = 0,
        source_prompts: list[str] | None = None,
        source_images: torch.Tensor | None = None,
        source_negative_prompts: str | list[str] | None = None,
        batch_size: int | None = None,
        per_prompt: int | None = None,
        source_mask: torch.Tensor | None = None,
    ):
        """negative_prompts: one for all rows, or one per row. source_negative_prompts: likewise; None: the same. seed:
        that of the first row, or one per row. source_mask (B, 1, H, W): where an edit may change the picture; None:
        everywhere. batch_size: how many of the `per_prompt` rows of each prompt are in a step; None: all."""
        self.prior, self.device = prior, prior.device
        self.seeds = [seed + row for row in range(len(prompts))] if isinstance(seed, int) else seed
        self.batch_size, self.per_prompt = batch_size, per_prompt
        self.seen_prompts = {}  # in order; a dictionary, as a list has one entry per row

        def each(values):
            return [values] * len(prompts) if isinstance(values, str) else values

        self.prompts, self.negative_prompts = prompts, each(negative_prompts)
        self.y = self.encode_prompt(prompts)
        self.y_negative = self.encode_prompt(self.negative_prompts, negative=True)
        self.y_empty = self.encode_prompt([""] * len(prompts))
        self.source_prompts = source_prompts or None
        self.y_source = self.encode_prompt(source_prompts) if source_prompts else None
        self.source_negative_prompts = each(source_negative_prompts or negative_prompts)
        self.y_source_negative = self.encode_prompt(self.source_negative_prompts, negative=True)
        self.source_images, self.source = source_images, None
        if source_images is not None:
            with torch.no_grad():
                self.source = prior.encode(source_images)
        self.source_mask = source_mask
        self.generators = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        # For numbers that all rows share; independent of the rows' own generators.
        self.shared_generator = torch.Generator().manual_seed((self.seeds[0] + 1) * 2654435761 % 2**63)

    def __len__(self) -> int:
        return len(self.prompts)

    def encode_prompt(self, prompts: list[str], **options) -> torch.Tensor:
        """One prompt per row → the numbers of their conditions, long (B,)."""
        self.seen_prompts |= dict.fromkeys(prompts)
        return self.prior.encode_prompt(prompts, **options)

    # ----------------------------------------------------------------------------------------------- the rows of a step

    def select(self, rows: torch.Tensor) -> "Particles":
        """The given rows (b,) as Particles of their own, which draw from the same generators."""
        part = copy.copy(self)
        part.rows = rows
        for name, values in vars(self).items():
            if isinstance(values, torch.Tensor):
                setattr(part, name, values[to_device(rows, values.device)])
            elif isinstance(values, list):
                setattr(part, name, [values[row] for row in rows.tolist()])
        return part

    def minibatch(self) -> "Particles":
        """The particles of one step: all, or with --batch that many of each prompt, drawn at random."""
        if self.batch_size in (None, self.per_prompt):
            return self
        starts = range(0, len(self), self.per_prompt)
        return self.select(torch.cat([start + self.choose(self.batch_size, self.per_prompt) for start in starts]))

    # ------------------------------------------------------------------------------------------------ random numbers

    def seed_for(self, purpose: str, row: int = 0) -> int:
        """A seed for a separate stream of random numbers."""
        return int.from_bytes(hashlib.sha256(f"{purpose} {self.seeds[row]}".encode()).digest()[:4], "big")

    def stream(self, purpose: str) -> "Particles":
        """The same particles with generators of their own for this purpose, which start anew at each call."""
        part = copy.copy(self)
        part.generators = [torch.Generator().manual_seed(self.seed_for(purpose, row)) for row in range(len(self))]
        part.shared_generator = torch.Generator().manual_seed(self.seed_for(f"shared {purpose}"))
        return part

    def fixed_noise(self) -> torch.Tensor:
        """ε* (B, C, h, w), the same at each call: for methods that keep a particle's noise."""
        return self.stream("noise that stays").randn(*self.prior.latent_shape)

    def state_dict(self) -> dict:
        return {"generators": [generator.get_state() for generator in (*self.generators, self.shared_generator)]}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError for a state with another number of rows."""
        for generator, value in zip((*self.generators, self.shared_generator), state["generators"], strict=True):
            generator.set_state(value)

    def draw(self, sampler, *shape: int) -> torch.Tensor:
        """sampler (torch.randn or torch.rand) for every row, from its own generator: (B, *shape) on the device."""
        numbers = torch.stack([sampler(shape, generator=generator) for generator in self.generators])
        return to_device(numbers, self.device)

    def randn(self, *shape: int) -> torch.Tensor:
        """Standard normal noise (B, *shape)."""
        return self.draw(torch.randn, *shape)

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform numbers in [0, 1), (B, *shape)."""
        return self.draw(torch.rand, *shape)

    def noise_like(self, z: torch.Tensor, *count: int) -> torch.Tensor:
        """ε for latents z (B, C, h, w), in their dtype; with a count (B, count, C, h, w)."""
        return self.randn(*count, *z.shape[1:]).to(z.dtype)

    def randint(self, low: int, high: int, shared: bool = False) -> torch.Tensor:
        """Integers from U{low … high}, both included: (B,) long on the CPU; the same for all rows if shared."""
        if shared:
            return torch.randint(low, high + 1, (1,), generator=self.shared_generator).expand(len(self)).clone()
        return torch.cat([torch.randint(low, high + 1, (1,), generator=generator) for generator in self.generators])

    def uniform(self) -> torch.Tensor:
        """Numbers from U[0, 1), (B,) float64 on the CPU, where timesteps are computed."""
        return self.randint(0, 2**24 - 1).double() / 2**24

    def choose(self, count: int, total: int) -> torch.Tensor:
        """`count` different random integers in [0, total), sorted: (count,) long on the CPU."""
        return torch.randperm(total, generator=self.shared_generator)[:count].sort().values
