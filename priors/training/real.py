"""The real pictures that `python -m benchmarks quality` holds the methods against: 60 prompts over all categories
and backgrounds.

python -m priors.training.real        writes priors/emoji64/real/

prompts.json          [[phrase, background], …]
pictures.png          four pictures of each prompt, each by a hand drawn at random, at placements of their own: a
                      row a prompt
features.safetensors  "features" (60, 32, D), float16: the CLIP's features of 32 others of each prompt, 8 by each hand
"""

import itertools
import json
import random
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from priors.training.data import NAMES, PACKAGES, Pictures, fetch, render_drawings, words
from recording.scores import Judge

HERE = Path(__file__).resolve().parent

PROMPTS, SHOWN, PLACEMENTS, SEED = 60, 4, 8, 3  # Training and its own measures have seeds 0, 1 and 2.


def choose(pictures, count, seed=0):
    """`count` (name, background) pairs: the categories in turn, then the backgrounds, each on which all four hands
    can be told apart from it."""
    rng = random.Random(seed)
    drawn = {}
    for index, (name, _) in enumerate(pictures.pairs):
        drawn.setdefault(name, []).append(index)
    piles = [rng.sample(names, len(names)) for names in NAMES.values()]
    in_turn = [
        name for names in itertools.zip_longest(*piles) for name in names if name and len(drawn[name]) == len(PACKAGES)
    ]
    colours, chosen = list(pictures.backgrounds), []
    for place, name in enumerate(in_turn[:count]):
        turn = [colours[(place + step) % len(colours)] for step in range(len(colours))]
        free = pictures.allowed[drawn[name]].all(0)
        chosen.append((name, next(colour for colour in turn if free[colours.index(colour)])))
    return chosen


def compose(pictures, name, background, hands, placements):
    """One picture for each of the hands, numbers up to 3, and placements beside them → (n, 3, 64, 64)."""
    drawn = torch.tensor([index for index, pair in enumerate(pictures.pairs) if pair[0] == name])
    background = torch.full_like(hands, list(pictures.backgrounds).index(background))
    return pictures.compose(drawn[hands], placements, background)


def write_real(packages, prior):
    pictures = Pictures(*render_drawings(fetch(packages), SHOWN + PLACEMENTS, SEED, spread=1), "cpu")
    chosen, judge = choose(pictures, PROMPTS), Judge(prior / "clip")
    generator = torch.Generator().manual_seed(SEED)
    every = torch.cartesian_prod(torch.arange(len(PACKAGES)), torch.arange(SHOWN, SHOWN + PLACEMENTS))
    lines, features = [], []
    for pair in chosen:
        # Drawn with replacement, as a method's particles are: what is known of the one then holds for the other.
        hands = torch.randint(len(PACKAGES), (SHOWN,), generator=generator)
        lines.append(torch.cat(compose(pictures, *pair, hands, torch.arange(SHOWN)).unbind(), -1))
        features.append(judge.image_features(compose(pictures, *pair, *every.unbind(1))))
    folder = prior / "real"
    folder.mkdir(exist_ok=True)
    (folder / "prompts.json").write_text(
        json.dumps([(words(name), colour) for name, colour in chosen], indent=1) + "\n"
    )
    sheet = torch.cat(lines, 1).movedim(0, -1)
    Image.fromarray((sheet * 255).round().byte().numpy()).save(folder / "pictures.png", optimize=True)
    save_file({"features": torch.stack(features).half()}, folder / "features.safetensors")


if __name__ == "__main__":
    root = HERE.parents[1]
    write_real(root / "outputs/train_emoji64/packages", root / "priors/emoji64")
