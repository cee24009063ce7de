"""`python -m benchmarks edits`: how well each editing method reaches its target and keeps the rest, on edits with a
known answer.

Rows are DDS, PDS, FlowEdit, SDS from the source, and SDEdit, with the unchanged source and the drawn target for
comparison.
"""

from dataclasses import dataclass

import torch

from algorithms import ALGORITHMS
from benchmarks.pictures import cells, load, make
from benchmarks.scores import interval, resampled
from benchmarks.tables import Options, Truth, markdown, report
from config import parse, read_options
from errors import require
from recording.folder import write_atomic
from recording.pictures import grid
from recording.scores import background_colours
from representations.start import load_image

BATCH = 5
COLUMNS = {
    "target": ("target reached", ".0%"),
    "background": ("background", ".0%"),
    "outside": ("change outside the edit", ".1%"),
    "directional": ("directional similarity", ".1f"),
    "seconds": ("seconds an edit", ".1f"),
}


@dataclass
class EditOptions(Options):
    rows: tuple[str, ...] = ("dds", "pds", "flowedit", "sds", "sdedit")
    """Methods, or "METHOD KIND". Methods that do not edit start from the source."""


class Edits(Truth):
    """Pairs of source and target pictures with the same drawing, and the prompts of both."""

    def __init__(self, path: str):
        super().__init__(path, "edits/edits.json")
        size = self.judge.clip.config.vision_config.image_size
        self.source, self.target = (
            torch.stack([load_image(self.folder / "edits" / case[kind], (size, size)) for case in self.cases])
            for kind in ("source", "target")
        )
        text, source_text = (
            self.judge.text_features([case[kind] for case in self.cases]) for kind in ("prompt", "source_prompt")
        )
        self.direction, self.source_features = text - source_text, self.judge.image_features(self.source)

    def scores(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Edited pictures (N, 3, H, W) → {column: (N,)}.

        target       whether the CLIP ranks the wanted name first among all names trained on
        outside      root mean square change of the pixels in which drawn source and drawn target agree
        directional  100 cos(image - source image, prompt - source prompt), Gal et al. 2021, arXiv 2108.00946
        """
        ranks = self.judge.ranks(images, [(case["phrase"], case["background"]) for case in self.cases], self.captions)
        colours = zip(background_colours(images, self.captions), self.cases, strict=True)
        same = ((self.source - self.target).abs().amax(1, keepdim=True) < 0.02).float()
        changed = ((images - self.source).square() * same).sum((1, 2, 3)) / (3 * same.sum((1, 2, 3)))
        moved = self.judge.image_features(images) - self.source_features
        return {
            "target": (torch.tensor(ranks) == 0).double(),
            "background": torch.tensor([colour == case["background"] for colour, case in colours]).double(),
            "outside": changed.double().sqrt(),
            "directional": 100 * torch.cosine_similarity(moved, self.direction).double(),
        }

    def runs(self, name: str) -> list[dict]:
        """Runs of five edits each, in order."""
        runs = []
        for first in range(0, len(self.cases), BATCH):
            batch = self.cases[first : first + BATCH]
            files = tuple(str(self.folder / "edits" / case["source"]) for case in batch)
            start = {"rep.init": "image", "rep.init_images": files}
            if ALGORITHMS[name].edits:
                start = {"source_image": files, "source_prompt": tuple(case["source_prompt"] for case in batch)}
            prompts = {"prompt": tuple(case["prompt"] for case in batch), "seed": first, "particles": 1}
            runs.append(start | prompts)
        return runs


def main(arguments: list[str]) -> None:
    options, given = read_options(EditOptions, arguments)
    data = Edits(parse(given).prior.path)
    rows = [row if " " in row else f"{row} latent" for row in options.rows]
    for name in (row.split()[0] for row in rows):
        require(name in ALGORITHMS, f"--rows {name}: one of {', '.join(ALGORITHMS)} is needed")
    made = {row: cells(options.folder / "edits", given, row, data.runs(row.split()[0]), data.sha256) for row in rows}
    make([cell for turn in zip(*made.values(), strict=True) for cell in turn], options.workers)
    pictures = {"the source as it is": data.source, "the drawn target": data.target}
    by_row = {row: data.scores(images) for row, images in pictures.items()}
    for row in rows:
        images, seconds = load(made[row])
        pictures[row] = images.flatten(0, 1)
        by_row[row] = data.scores(pictures[row]) | {"seconds": seconds.repeat_interleave(BATCH) / BATCH}
    weights, table = resampled(len(data.cases)), {}
    for row, columns in by_row.items():
        table[row] = {key: (values.mean().item(), *interval(weights @ values)) for key, values in columns.items()}
    text = f"""{markdown(table, COLUMNS)}

{len(data.cases)} edits with a known answer; 95 % intervals over them. The change is the root mean square, in parts of \
the range, in the pixels that are the same in the drawn source and the drawn target."""
    report("edits", text, options, table, COLUMNS)
    sheet = grid(torch.cat(list(pictures.values())), list(pictures), len(data.cases), 64)
    write_atomic(options.folder / "edits.png", sheet.save)
