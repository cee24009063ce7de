"""`python -m benchmarks edits`: how well each editing method reaches its target and keeps the rest, on edits with a
known answer.

Rows are DDS, PDS, FlowEdit, SDS from the source, and SDEdit, with the unchanged source and the drawn target for
comparison.
"""

from dataclasses import dataclass

import torch

from algorithms import ALGORITHMS
from benchmarks.pictures import cells, load_pictures, make_pictures
from benchmarks.scores import interval, resampled, scores
from benchmarks.tables import Options, Truth, full_rows, markdown, report
from config import parse, read_options
from recording.folder import write_atomic
from recording.pictures import grid
from representations.start import load_image

BATCH = 5  # edits in one run
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
        self.source, self.target = self.drawings("source"), self.drawings("target")  # (N, 3, H, W)
        self.source_features = self.judge.image_features(self.source).double()  # (N, D)
        after, before = (self.judge.text_features(self.column(key)) for key in ("prompt", "source_prompt"))
        self.direction = (after - before).double()
        self.wanted = list(zip(self.column("phrase"), self.column("background"), strict=True))

    def column(self, key: str) -> list[str]:
        return [case[key] for case in self.cases]

    def drawings(self, kind: str) -> torch.Tensor:
        """Every case's picture of this kind, (N, 3, H, W) in [0, 1], as large as the CLIP takes them."""
        side = self.judge.clip.config.vision_config.image_size
        return torch.stack([load_image(self.folder / "edits" / file, (side, side)) for file in self.column(kind)])

    def scores(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Edited pictures (N, 3, H, W) → {column: (N,)}.

        target       whether the CLIP ranks the wanted name first among all names trained on
        background   whether the border has the wanted colour
        outside      root mean square change of the pixels in which drawn source and drawn target agree
        directional  100 cos(image - source image, prompt - source prompt), Gal et al. 2021, arXiv 2108.00946
        """
        found = scores(images[:, None], self.judge, self.wanted, self.captions)  # one picture for each prompt
        same = ((self.source - self.target).abs().amax(1, keepdim=True) < 0.02).float()  # (N, 1, H, W)
        changed = ((images - self.source).square() * same).sum((1, 2, 3)) / (3 * same.sum((1, 2, 3)))
        moved = found["features"][:, 0] - self.source_features
        return {
            "target": found["top1"],
            "background": found["background"],
            "outside": changed.double().sqrt(),
            "directional": 100 * torch.cosine_similarity(moved, self.direction),
        }

    def runs(self, method: str) -> list[dict]:
        """Runs of five edits each, in order."""
        runs = []
        for first in range(0, len(self.cases), BATCH):
            batch = self.cases[first : first + BATCH]
            files = tuple(str(self.folder / "edits" / case["source"]) for case in batch)
            if ALGORITHMS[method].edits:
                start = {"source_image": files, "source_prompt": tuple(case["source_prompt"] for case in batch)}
            else:
                start = {"rep.init": "image", "rep.init_images": files}
            prompts = {"prompt": tuple(case["prompt"] for case in batch), "seed": first, "particles": 1}
            runs.append(start | prompts)
        return runs


def main(arguments: list[str]) -> None:
    options, given = read_options(EditOptions, arguments)
    edits = Edits(parse(given).prior.path)
    row_cells = {}
    for row in full_rows(options.rows, ALGORITHMS):
        method, _ = row.split()
        row_cells[row] = cells(options.folder / "edits", given, row, edits.runs(method), edits.sha256)
    make_pictures(list(row_cells.values()), options.workers)
    pictures = {"the source as it is": edits.source, "the drawn target": edits.target}
    by_row = {row: edits.scores(images) for row, images in pictures.items()}
    for row, made in row_cells.items():
        images, seconds = load_pictures(made)
        pictures[row] = images.flatten(0, 1)
        by_row[row] = edits.scores(pictures[row]) | {"seconds": seconds.repeat_interleave(BATCH) / BATCH}
    weights, table = resampled(len(edits.cases)), {}
    for row, columns in by_row.items():
        table[row] = {key: (values.mean().item(), *interval(weights @ values)) for key, values in columns.items()}
    text = f"""{markdown(table, COLUMNS)}

{len(edits.cases)} edits with a known answer; 95 % intervals over them. The change is the root mean square, in parts \
of the range, in the pixels that are the same in the drawn source and the drawn target."""
    report("edits", text, options, table, COLUMNS)
    sheet = grid(torch.cat(list(pictures.values())), list(pictures), len(edits.cases), 64)
    write_atomic(options.folder / "edits.png", sheet.save)
