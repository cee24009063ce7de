"""The batch: each row's prompt, its source picture, and its own random numbers."""

import contextlib
import hashlib

import torch

from priors.device import to_device
from priors.prior import Prior

# What batch() restricts to the rows of a step. Any new attribute with one entry per row belongs here.
PER_ROW = ("prompts", "y", "negative_prompts", "y_negative", "y_empty", "source_images", "source", "source_prompts")
PER_ROW += ("source_mask", "y_source", "source_negative_prompts", "y_source_negative", "generators")


class Particles:
    """B rows, each with one prompt and one seed.

    prompts, text                          y of each row, and its embedding for Prior.model_output: long (B,), numbers of
                                           conditions from Prior.encode_prompt
    negative_prompts, negative             y⁻, likewise;  empty: the numbers of ∅
    source_images, source                  pictures to edit (B, 3, H, W) and their latents (B, C, h, w), or None
    source_prompts, source_text            the prompts that describe them, likewise, or None
    source_negative_prompts, source_negative    y⁻ of the source, likewise
    rows                                   inside batch(), its rows, long (b,); otherwise slice(None)
    recorded_rows                          the rows of the last batch(), for recording the step

    Row i has its own generator, seeded with seed + i, or its own seed. So its path does not depend on the rest of the
    batch, and row i of seed s equals row 0 of seed s + i (unless the rows share their timesteps). The generators are on
    the CPU: every device gets the same numbers.
    """

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
        self.seen_prompts = []  # every prompt that has been embedded
        self.batch_size, self.per_prompt, self.rows, self.recorded_rows = (
            batch_size,
            per_prompt,
            slice(None),
            slice(None),
        )

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

    @contextlib.contextmanager
    def batch(self):
        """Inside, the particles are the rows of one step: all, or batch_size rows of each prompt, drawn at random."""
        if self.batch_size in (None, self.per_prompt):
            yield
            return
        drawn = [
            self.choose(self.batch_size, self.per_prompt) + start for start in range(0, len(self), self.per_prompt)
        ]
        rows, whole = torch.cat(drawn), dict(vars(self))
        for name in PER_ROW:
            values = whole[name]
            if isinstance(values, list):
                setattr(self, name, [values[row] for row in rows])
            elif values is not None:
                setattr(self, name, values[to_device(rows, values.device)])
        self.rows = self.recorded_rows = rows
        try:
            yield
        finally:
            vars(self).update({name: whole[name] for name in (*PER_ROW, "rows")})

    def replace_rows(self, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """A tensor (B, …) with `part` (b, …) in the rows of this step; `part` itself if these are all rows."""
        if isinstance(self.rows, slice):
            return part
        whole = whole.to(part, copy=True)
        whole[self.rows] = part
        return whole

    def encode_prompt(self, prompts: list[str], **options) -> torch.Tensor:
        """One prompt per row → text for Prior.model_output, long (B,)."""
        self.seen_prompts = list(dict.fromkeys([*self.seen_prompts, *prompts]))
        return self.prior.encode_prompt(prompts, **options)

    # ------------------------------------------------------------------------------------------------ random numbers

    def seed_for(self, purpose: str, row: int = 0) -> int:
        """A seed for a separate stream of random numbers."""
        return int.from_bytes(hashlib.sha256(f"{purpose} {self.seeds[row]}".encode()).digest()[:4], "big")

    @contextlib.contextmanager
    def stream(self, purpose: str):
        """Inside, random numbers come from separate generators for this purpose, restarted at each entry. The rows' own
        generators stay as they are."""
        own = self.generators, self.shared_generator
        rows = range(len(self)) if isinstance(self.rows, slice) else self.rows.tolist()
        self.generators = [torch.Generator().manual_seed(self.seed_for(purpose, row)) for row in rows]
        self.shared_generator = torch.Generator().manual_seed(self.seed_for(f"shared {purpose}"))
        try:
            yield
        finally:
            self.generators, self.shared_generator = own

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
        """ε for latents z (B, C, h, w); with a count (B, count, C, h, w)."""
        return self.randn(*count, *z.shape[1:])

    def randint(self, low: int, high: int, shared: bool = False) -> torch.Tensor:
        """Integers from U{low … high}, both included: (B,) long on the CPU; the same for all rows if shared."""
        if shared:
            return torch.randint(low, high + 1, (1,), generator=self.shared_generator).expand(len(self)).clone()
        return torch.cat([torch.randint(low, high + 1, (1,), generator=generator) for generator in self.generators])

    def uniform(self) -> torch.Tensor:
        """Numbers from U[0, 1), (B,) float64 on the CPU."""
        return self.randint(0, 2**24 - 1).double() / 2**24

    def choose(self, count: int, total: int) -> torch.Tensor:
        """`count` different random integers in [0, total), sorted: (count,) long on the CPU."""
        return torch.randperm(total, generator=self.shared_generator)[:count].sort().values
