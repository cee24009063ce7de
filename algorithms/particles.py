"""What an algorithm knows of the batch besides its latents: each row's prompt, its source, and its own randomness."""

import contextlib

import torch

from priors.prior import to_device


class Particles:
    """B rows, each one prompt and one seed.

    prompts, text                 y of each row, and its embeddings (B, L, D)
    negative_prompt, negative     y⁻, one for all, and its embeddings;  empty: those of ∅
    source_images, source         the pictures to be edited (B, 3, H, W) and their latents (B, C, h, w), or None
    source_prompts, source_text   the prompts that describe them, and their embeddings, or None

    Row i draws from a generator of its own, seeded with seed + i. So its path does not depend on what else is in the batch,
    and row i of seed s is row 0 of seed s + i (unless the rows share their timesteps). The generators live on the CPU: every
    device gets the same numbers.
    """

    def __init__(self, prior, prompts, negative_prompt, seed, source_prompts=None, source_images=None):
        self.prior, self.device = prior, prior.device
        self.embeddings = {}
        self.prompts, self.negative_prompt = prompts, negative_prompt
        self.text = self.embed(prompts)
        self.negative = self.embed([negative_prompt] * len(prompts))
        self.empty = self.embed([""] * len(prompts))
        self.source_prompts = source_prompts or None
        self.source_text = self.embed(source_prompts) if source_prompts else None
        self.source_images, self.source = source_images, None
        if source_images is not None:
            with torch.no_grad():
                self.source = prior.encode(source_images)
        self.generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
        # Numbers that all rows share come from none of theirs.
        self.shared_generator = torch.Generator().manual_seed((seed + 1) * 2654435761 % 2**63)

    def __len__(self):
        return len(self.prompts)

    def embed(self, prompts):
        """Embeddings of one prompt a row, (B, L, D); the same tensor for the same prompts, so that the network is asked once."""
        if tuple(prompts) not in self.embeddings:
            self.embeddings[tuple(prompts)] = self.prior.embed(prompts)
        return self.embeddings[tuple(prompts)]

    @property
    def texts(self):
        """Every prompt that has been embedded, whatever method asked for it."""
        return dict.fromkeys(prompt for prompts in self.embeddings for prompt in prompts)

    @contextlib.contextmanager
    def rehearsal(self):
        """Inside, every row draws its numbers from the first again; outside, they go on as if nothing had been drawn."""
        kept = self.generators, self.shared_generator
        fresh = [
            torch.Generator().manual_seed(generator.initial_seed())
            for generator in (*self.generators, self.shared_generator)
        ]
        *self.generators, self.shared_generator = fresh
        try:
            yield
        finally:
            self.generators, self.shared_generator = kept

    def draw(self, sampler, *shape):
        """sampler, torch.randn or torch.rand, for every row from its own generator: (B, *shape) on the device."""
        numbers = torch.stack([sampler(shape, generator=generator) for generator in self.generators])
        return to_device(numbers, self.device)

    def randn(self, *shape):
        """Standard normal noise (B, *shape)."""
        return self.draw(torch.randn, *shape)

    def rand(self, *shape):
        """Uniform numbers in [0, 1), (B, *shape)."""
        return self.draw(torch.rand, *shape)

    def noise_like(self, z, *count):
        """ε for latents z (B, C, h, w); with a count (B, count, C, h, w)."""
        return self.randn(*count, *z.shape[1:])

    def randint(self, low, high, shared=False):
        """Integers of U{low … high}, both included: (B,) long on the CPU; one for all rows if shared."""
        if shared:
            return torch.randint(low, high + 1, (1,), generator=self.shared_generator).expand(len(self)).clone()
        return torch.cat([torch.randint(low, high + 1, (1,), generator=generator) for generator in self.generators])

    def choose(self, count):
        """`count` rows at random, none twice: (count,) long on the CPU; None where that is all of them."""
        if count is None or count >= len(self):
            return None
        return torch.randperm(len(self), generator=self.shared_generator)[:count]
