"""Edits with a known answer: pairs of pictures that share their drawing, both drawn, for `python -m benchmarks edits`.

python -m priors.training.edits        writes priors/emoji64/edits/
"""

import json
from pathlib import Path

from priors.training.data import BACKGROUNDS, Pictures, caption, fetch, render_drawings, words

# hand, source, its background, target, its background
EDITS = [
    line.split()
    for line in """
    noto     red-heart             white    blue-heart           white
    fluent   blue-heart            white    green-heart          white
    noto     green-heart           pink     purple-heart         pink
    flat     yellow-heart          white    red-heart            white
    fluent   purple-heart          white    black-heart          white
    classic  red-heart             gray     yellow-heart         gray
    noto     red-circle            white    blue-circle          white
    fluent   green-circle          white    yellow-circle        white
    flat     orange-circle         white    purple-circle        white
    fluent   blue-circle           pink     green-circle         pink
    noto     red-square            white    blue-square          white
    fluent   green-square          white    yellow-square        white
    flat     orange-square         gray     purple-square        gray
    noto     large-blue-diamond    white    large-orange-diamond white
    fluent   large-orange-diamond  white    large-blue-diamond   white
    noto     red-apple             white    green-apple          white
    fluent   green-apple           white    red-apple            white
    flat     red-apple             blue     green-apple          blue
    noto     grinning-face         white    crying-face          white
    fluent   grinning-face         white    nerd-face            white
    flat     winking-face          white    sleeping-face        white
    noto     crying-face           blue     grinning-face        blue
    noto     red-apple             white    red-apple            blue
    fluent   owl                   white    owl                  green
    flat     snowman               blue     snowman              red
    noto     banana                white    banana               purple
    fluent   umbrella              white    umbrella             orange
    noto     cactus                pink     cactus               white
    flat     panda                 white    panda                pink
    classic  star                  white    star                 blue
""".strip().splitlines()
]


def write_edits(packages, folder):
    """edits.json and a pair of PNGs for each edit; source and target stand in exactly the same place."""
    from PIL import Image

    drawings = fetch(packages)
    pictures = Pictures(*render_drawings(drawings, 1, 0, spread=0), "cpu")
    folder.mkdir(parents=True, exist_ok=True)
    colours, entries = list(BACKGROUNDS), []
    for index, (hand, *pair) in enumerate(EDITS):
        files = []
        for kind, name, background in (("source", *pair[:2]), ("target", *pair[2:])):
            drawing = pictures.pairs.index((name, hand))
            image = pictures.compose(*([value] for value in (drawing, 0, colours.index(background))))[0]
            files.append(f"{index:02d}_{kind}.png")
            Image.fromarray((image.movedim(0, -1) * 255).round().byte().numpy()).save(folder / files[-1])
        entries.append(
            {
                "source": files[0],
                "target": files[1],
                "source_prompt": caption(*pair[:2]),
                "prompt": caption(*pair[2:]),
                "phrase": words(pair[2]),
                "background": pair[3],
            }
        )
    (folder / "edits.json").write_text(json.dumps(entries, indent=1) + "\n")


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    write_edits(root / "outputs/train_emoji64/packages", root / "priors/emoji64/edits")
