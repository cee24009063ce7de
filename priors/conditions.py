"""Prompts as inputs of the denoiser: each is encoded once, by the checkpoint's own pipeline, and joined to batches."""

import re
import string

import torch

from priors.families import join
from priors.files import checkpoint_file
from priors.pipeline import Pipeline

TOKENS = "encoder_hidden_states"  # diffusers' name of a prompt's token embeddings, in every family


class Conditions:
    """A numbered list of the denoiser's arguments for each prompt so far; y are such numbers.

    text_length  number of tokens of a prompt that are read;  loaded  whether the text encoders are in memory
    """

    def __init__(self, pipeline: Pipeline, size: tuple[int, int], device: torch.device, dtype: torch.dtype):
        """size: (H, W) of the pictures in pixels, which some families give to their denoiser."""
        self.pipeline, self.size, self.device, self.dtype = pipeline, size, device, dtype
        self.conditions, self.places = [], {}  # each prompt's arguments for the denoiser, and its index
        self.batches = {}  # joined arguments of the last batches
        tokenizers = [pipeline.parts[part] for part in pipeline.texts if part.startswith("tokenizer")]
        # The one that reads most of a prompt: T5's, if there is one.
        self.tokenizer = max(filter(None, tokenizers), key=lambda tokenizer: tokenizer.model_max_length)
        self.text_length = self.tokenizer.model_max_length
        self.taught = set(checkpoint_file(pipeline.folder, "captions.json").get("words", ()))
        self.load()

    def load(self) -> None:
        """Loads the text encoders onto the device."""
        self.pipeline.move_text(self.device)
        self.loaded = True

    def free(self) -> None:
        """Frees the memory of the text encoders; a later new prompt loads them again."""
        self.pipeline.move_text(None)
        self.loaded = False

    def encode_prompt(self, prompts: list[str], negative: bool = False) -> torch.Tensor:
        """Prior.encode_prompt()."""
        for prompt in dict.fromkeys(prompts):
            key = prompt, negative or not prompt
            if key not in self.places:
                if not self.loaded:
                    self.load()
                self.places[key] = len(self.conditions)
                condition = self.pipeline.condition(*key, self.size)
                for name, value in condition.items():
                    if isinstance(value, torch.Tensor) and value.is_floating_point():
                        condition[name] = value.to(self.dtype)
                self.conditions.append(condition)
        return torch.tensor([self.places[prompt, negative or not prompt] for prompt in prompts])

    def learn(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.nn.Parameter]]:
        """Prior.learn()."""
        numbers, embeddings = y.tolist(), []
        for row, place in enumerate(numbers):
            if ("learnt", row) not in self.places:
                self.places["learnt", row] = len(self.conditions)
                self.conditions.append({})
            value = self.conditions[place][TOKENS]
            precision = torch.promote_types(value.dtype, torch.float32)
            embeddings.append(torch.nn.Parameter(value.detach().to(precision, copy=True)))
            numbers[row] = self.places["learnt", row]
            self.conditions[numbers[row]] = self.conditions[place] | {TOKENS: embeddings[-1]}
        return torch.tensor(numbers), embeddings

    def arguments(self, y: tuple[int, ...]) -> dict:
        """The denoiser's arguments for a batch with these conditions, cached for the last batches."""
        if y in self.batches:
            return self.batches[y]
        rows = [self.conditions[place] for place in y]
        learnt = any(isinstance(value, torch.nn.Parameter) for row in rows for value in row.values())
        if learnt:  # Learned embeddings change, so they are not cached.
            return join([row | {TOKENS: row[TOKENS].to(self.dtype)} for row in rows])
        if len(self.batches) == 8:
            self.batches.clear()
        self.batches[y] = join(rows)
        return self.batches[y]

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
