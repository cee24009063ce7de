"""Prompts as inputs of the denoiser: each is encoded once, by the checkpoint's own pipeline, and joined to batches."""

import re
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch

from errors import InputError
from priors.families import capture_inputs, join

TOKENS = "encoder_hidden_states"  # diffusers' name of a prompt's token embeddings, in every family


@dataclass(eq=False, repr=False)
class Conditions:
    """A numbered list of the denoiser's arguments for each prompt so far; y are such numbers.

    text_length  number of tokens of a prompt that are read;  loaded  whether the text encoders are in memory
    """

    pipeline: Any
    """Of diffusers, with all its parts."""
    size: tuple[int, int]
    """(H, W) of the pictures in pixels, which some families give to their denoiser."""
    device: torch.device
    dtype: torch.dtype
    """Of the denoiser."""
    reload: Callable[[str], torch.nn.Module | None] | None = None
    """Loads a text encoder by its name once it was freed. None: they are kept in CPU memory instead."""
    distilled_guidance: float | None = None
    """The guidance scale of a prior that takes it as an input."""
    taught: Collection[str] = ()
    """The words of the training captions, if they are known."""

    def __post_init__(self):
        self.conditions, self.places = [], {}  # each prompt's arguments for the denoiser, and its index
        self.batches = {}  # joined arguments of the last batches
        self.encoders = [name for name in self.pipeline.components if name.startswith("text_encoder")]
        tokenizers = [part for name, part in self.pipeline.components.items() if name.startswith("tokenizer") and part]
        # The one that reads most of a prompt: T5's, if there is one.
        self.tokenizer = max(tokenizers, key=lambda tokenizer: tokenizer.model_max_length)
        self.text_length = self.tokenizer.model_max_length
        self.load()

    def load(self) -> None:
        """Moves the text encoders to the device, loading them from disk if needed."""
        for name in self.encoders:
            network = getattr(self.pipeline, name)
            network = self.reload(name) if network is None and self.reload else network
            setattr(self.pipeline, name, network and network.to(self.device))
        self.loaded = True

    def free(self) -> None:
        """Frees the memory of the text encoders; a later new prompt loads them again."""
        for name in self.encoders:
            network = getattr(self.pipeline, name)
            setattr(self.pipeline, name, None if self.reload or network is None else network.to("cpu"))
        self.loaded = False

    def encode_prompt(self, prompts: list[str], negative: bool = False) -> torch.Tensor:
        """Prior.encode_prompt()."""
        keys = [(prompt, negative or not prompt) for prompt in prompts]
        for key in keys:
            if key not in self.places:
                if not self.loaded:
                    self.load()
                self.places[key] = len(self.conditions)
                self.conditions.append(self.condition(*key))
        return torch.tensor([self.places[key] for key in keys])

    @torch.no_grad()
    def condition(self, prompt: str, negative: bool) -> dict:
        """The denoiser's arguments for a prompt, (1, …) each. negative: encode it as a negative prompt; "" is then the
        pipeline's own unconditional."""
        if self.distilled_guidance is not None:
            return capture_inputs(self.pipeline, prompt, None, self.size, self.distilled_guidance)[-1]
        pair = ("", prompt or None) if negative else (prompt, None)
        rows = capture_inputs(self.pipeline, *pair, self.size, 2.0)
        if len(rows) != 2:
            raise InputError("--prior.path: its pipeline takes no guidance")
        return rows[0 if negative else 1]

    def learn(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
        """Prior.learn()."""
        numbers, embeddings = y.tolist(), []
        for row, place in enumerate(numbers):
            if ("learnt", row) not in self.places:
                self.places["learnt", row] = len(self.conditions)
                self.conditions.append({})
            precision = torch.promote_types(self.dtype, torch.float32)
            value = self.conditions[place][TOKENS].to(self.dtype)
            embeddings.append(torch.nn.Parameter(value.detach().to(precision, copy=True)))
            numbers[row] = self.places["learnt", row]
            self.conditions[numbers[row]] = self.conditions[place] | {TOKENS: embeddings[-1]}
        return torch.tensor(numbers), embeddings

    def arguments(self, y: tuple[int, ...]) -> dict:
        """The denoiser's arguments for a batch with these conditions, cached for the last batches."""
        if y in self.batches:
            return self.batches[y]
        rows = [self.conditions[place] for place in y]
        joined = join(rows, self.dtype)
        if any(isinstance(row[TOKENS], torch.nn.Parameter) for row in rows):
            return joined  # Learned embeddings change, so they are not cached.
        if len(self.batches) == 8:
            self.batches.clear()
        self.batches[y] = joined
        return joined

    def warnings(self, prompt: str) -> list[str]:
        """Prior.warnings()."""
        lines = []
        ids = self.tokenizer(prompt, verbose=False).input_ids
        if len(ids) > self.text_length:
            unread = self.tokenizer.decode(ids[self.text_length - 1 : -1]).strip()
            lines.append(f"the text encoder reads {self.text_length - 2} tokens of a prompt; unread: {unread!r}")
        if self.taught:
            said = [word for word in re.findall(r"\w+|[^\w\s]", prompt.lower()) if word not in string.punctuation]
            unknown = [word for word in dict.fromkeys(said) if word not in self.taught]
            if unknown:
                lines.append(f"the prior was never taught: {', '.join(unknown)}")
        return lines
