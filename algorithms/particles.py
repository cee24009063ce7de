"""What an algorithm knows of the batch besides its latents: each row's prompt and each row's own randomness."""


def to_device(tensor, device):
    """A CPU tensor on the device, without making the CPU wait for what the GPU has queued."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Particles:
    """B rows, each one prompt and one seed.

    text, negative  embeddings of y and y⁻, (B, L, D)
    Row i draws from a generator of its own, seeded with seed + i. So its path does not depend on what else is in the batch,
    and row i of seed s is row 0 of seed s + i (unless the rows share their timesteps). The generators live on the CPU: every device gets the same numbers.
    """

    def __init__(self, prior, prompts, negative_prompt, seed):
        import torch

        self.prompts = prompts
        self.device = prior.device
        self.text = prior.embed(prompts)
        self.negative = prior.embed([negative_prompt] * len(prompts))
        self.generators = [torch.Generator().manual_seed(seed + row) for row in range(len(prompts))]
        # Numbers that all rows share come from none of theirs.
        self.shared_generator = torch.Generator().manual_seed((seed + 1) * 2654435761 % 2**63)

    def __len__(self):
        return len(self.prompts)

    def randn(self, *shape):
        """Standard normal noise (B, *shape) on the device, each row from its own generator."""
        import torch

        noise = torch.stack([torch.randn(shape, generator=generator) for generator in self.generators])
        return to_device(noise, self.device)

    def randint(self, low, high, shared=False):
        """Integers of U{low … high}, both included: (B,) long on the CPU; one for all rows if shared."""
        import torch

        if shared:
            return torch.randint(low, high + 1, (1,), generator=self.shared_generator).expand(len(self)).clone()
        return torch.cat([torch.randint(low, high + 1, (1,), generator=generator) for generator in self.generators])
