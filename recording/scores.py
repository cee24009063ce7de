"""Does the picture show what the prompt says? CLIP scores, and the background's colour.

If a checkpoint has its training captions (captions.json), a picture's name is ranked among all names trained on:

    {"names": {category: ["a red apple", …]}, "backgrounds": {"white": [255, 255, 255], …}, "hands": […], "words": […]}
"""

import random
from dataclasses import dataclass

import torch

from errors import InputError, first_line
from priors.files import locate


@dataclass
class EvalConfig:
    clip: str | None = None
    """Folder or hub id of the CLIP that scores the recorded pictures; none: no scores. None: the checkpoint's clip/, if
    there is one."""


def with_background(phrase, background):
    """The caption of a thing on a background; white is not mentioned."""
    return phrase if background == "white" else f"{phrase} on a {background} background"


def draw_prompts(captions, count, seed):
    """`count` (phrase, background) pairs, from all categories in turn; names repeat only after all were drawn."""
    rng = random.Random(seed)
    piles = [rng.sample(names, len(names)) for names in captions["names"].values()]
    phrases = []
    while len(phrases) < count:
        if not any(piles):
            piles = [rng.sample(names, len(names)) for names in captions["names"].values()]
        phrases += [pile.pop() for pile in piles if pile]
    prompts = []
    for phrase in phrases[:count]:
        colours = [colour for colour in captions["backgrounds"] if colour not in phrase.split()]
        prompts.append((phrase, rng.choice(["white", rng.choice(colours)])))
    return prompts


def background_colours(images, captions):
    """Images (B, 3, H, W) → B names: the named colour nearest to the median of the picture's border."""
    rim = torch.ones(images.shape[-2:], dtype=torch.bool)
    rim[2:-2, 2:-2] = False
    seen = images.clamp(0, 1)[:, :, rim].median(dim=-1).values  # (B, 3)
    palette = torch.tensor(list(captions["backgrounds"].values())) / 255  # (K, 3)
    names = list(captions["backgrounds"])
    return [names[index] for index in torch.cdist(seen.cpu(), palette).argmin(1)]


def saturations(images):
    """Images (B, 3, H, W) → (B,), the mean over each image's pixels of the S of HSV, (max - min) / max of red, green
    and blue."""
    images = images.clamp(0, 1)
    high, low = images.amax(1), images.amin(1)
    return ((high - low) / high.clamp(min=1e-6)).mean((1, 2))


class Judge:
    """A CLIP (Radford et al. 2021, arXiv 2103.00020), from a folder or the hub."""

    def __init__(self, path):
        from transformers import CLIPModel, CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # needs no torchvision
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        clip, info = CLIPModel.from_pretrained(path, **options)
        missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        if missing:
            raise ValueError(f"its file lacks {missing[0]}, or has another shape of it")
        self.clip, self.tokenizer = clip.eval(), CLIPTokenizer.from_pretrained(path)
        longest = clip.config.text_config.max_position_embeddings
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, longest)
        self.image_processor = CLIPImageProcessorPil.from_pretrained(path)

    def text_features(self, prompts):
        """(N, D), normalised."""
        tokens = self.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            return torch.nn.functional.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=-1)

    def image_features(self, images):
        """Images (B, 3, H, W) in [0, 1] → (B, D), normalised."""
        pixels = (images.clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
        inputs = self.image_processor(list(pixels), return_tensors="pt")
        with torch.no_grad():
            return torch.nn.functional.normalize(self.clip.get_image_features(**inputs).pooler_output, dim=-1)

    def diversity(self, images, particles):
        """Mean CLIP distance (1 - cosine) of two pictures of one prompt. The `particles` pictures of each prompt are
        consecutive."""
        features = self.image_features(images).unflatten(0, (-1, particles))  # (P, n, D)
        apart = 1 - features @ features.mT
        return (apart.sum((1, 2)) / (particles * (particles - 1))).mean().item()

    def ranks(self, images, prompts, captions):
        """The rank of the wanted name among all names trained on, for each image; 0 is best.

        prompts: (phrase, background) pairs. The candidates are the prompt with each name in turn.
        """
        names = [phrase for category in captions["names"].values() for phrase in category]
        features = {
            b: self.text_features([with_background(name, b) for name in names]) for b in {b for _, b in prompts}
        }
        ranks = []
        for image, (phrase, background) in zip(self.image_features(images), prompts, strict=True):
            scores = features[background] @ image
            ranks.append(int((scores > scores[names.index(phrase)]).sum()))
        return ranks


class Evaluator:
    """CLIP scores of a run's pictures, one per particle, both from -100 to 100:

    clip_score    100 cos(image, prompt). Hessel et al. 2021, arXiv 2104.08718, without their clipping at 0 and
                  factor of 2.5
    directional   for edits, 100 cos(image - source image, prompt - source prompt). Gal et al. 2021, arXiv 2108.00946
    """

    def __init__(self, judge, particles):
        self.judge = judge
        self.text = judge.text_features(particles.prompts)
        self.source = None
        if particles.source_images is not None:
            self.source = judge.image_features(particles.source_images)
            self.direction = self.text - judge.text_features(particles.source_prompts)

    def scores(self, images):
        """Images (B, 3, H, W) → {name: one number per particle}."""
        features = self.judge.image_features(images)
        scores = {"clip_score": torch.cosine_similarity(features, self.text)}
        if self.source is not None:
            scores["directional"] = torch.cosine_similarity(features - self.source, self.direction)
        return {name: [round(100 * value, 3) for value in values.tolist()] for name, values in scores.items()}


def evaluator(config, prior_path, particles):
    """The Evaluator for the settings, or None. Raises InputError for a CLIP that cannot be loaded."""
    path = config.clip
    if path is None:
        checkpoint = locate(prior_path)
        path = checkpoint / "clip" if not isinstance(checkpoint, str) and (checkpoint / "clip").is_dir() else "none"
    if path == "none":
        return None
    try:
        return Evaluator(Judge(path), particles)
    except Exception as error:  # whatever a library raises, the user needs the name and the cause
        raise InputError(f"--eval.clip {path} could not be loaded as a CLIP ({first_line(error)})") from error


def report(ranks, colours, prompts):
    """One line: top-1, top-5, background."""
    n = len(ranks)
    top1, top5 = sum(r == 0 for r in ranks) / n, sum(r < 5 for r in ranks) / n
    right = sum(colour == background for colour, (_, background) in zip(colours, prompts, strict=True)) / n
    return f"top-1 {top1:.1%}   top-5 {top5:.1%}   background {right:.1%}   ({n} pictures)"
