"""`python benchmark.py edits`: which method that edits reaches its target and keeps the rest, on edits with a known
answer.

Rows are DDS, PDS, SDS from the source, and SDEdit, with the unchanged source and the drawn target for comparison.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch

from algorithms import ALGORITHMS
from benchmarks.options import Options, read_options
from benchmarks.pictures import Cell, load, make, row_folder
from benchmarks.scores import interval, resampled
from benchmarks.tables import markdown, write_csv, write_docs, write_markdown
from errors import InputError
from priors.checkpoint import checkpoint_file, digest, locate
from priors.evaluation import Judge, background_colours
from recording.folder import write_atomic
from recording.pictures import grid
from representations.start import load_image

BATCH = 5
COLUMNS = {
    "target": "target reached",
    "background": "background",
    "outside": "change outside the edit",
    "directional": "directional similarity",
    "seconds": "seconds an edit",
}


@dataclass
class EditOptions(Options):
    rows: tuple[str, ...] = ("dds", "pds", "sds", "sdedit")
    """Methods, or "METHOD KIND". One that does not edit starts from the source."""


class Data:
    """The checkpoint's edits: pairs of pictures that share their drawing, and the prompts of both."""

    def __init__(self, path):
        folder = locate(path)
        if not (Path(folder) / "edits" / "edits.json").is_file() or not (Path(folder) / "clip").is_dir():
            raise InputError(f"--prior.path {path}: edits needs a folder with edits/, captions.json and clip/")
        self.folder = folder / "edits"
        self.pairs = [
            SimpleNamespace(**pair) for pair in json.loads((self.folder / "edits.json").read_text(encoding="utf-8"))
        ]
        self.judge, self.captions, self.sha256 = (
            Judge(folder / "clip"),
            checkpoint_file(folder, "captions.json"),
            digest(folder),
        )
        size = self.judge.clip.config.vision_config.image_size
        self.source, self.target = (
            torch.stack([load_image(self.folder / getattr(pair, kind), size) for pair in self.pairs])
            for kind in ("source", "target")
        )
        texts = [
            self.judge.text_features([getattr(pair, name) for pair in self.pairs])
            for name in ("prompt", "source_prompt")
        ]
        self.direction, self.source_features = texts[0] - texts[1], self.judge.image_features(self.source)

    def scores(self, images):
        """Edited pictures (N, 3, H, W) → {column: (N,)}.

        target       the wanted name is the first of all names taught, for the CLIP
        outside      root mean square change, in % of the range, of the pixels in which drawn source and drawn
                     target agree
        directional  100 cos(image - source image, prompt - source prompt), Gal et al. 2021, arXiv 2108.00946
        """
        wanted = [(pair.phrase, pair.background) for pair in self.pairs]
        ranks = torch.tensor(self.judge.ranks(images, wanted, self.captions))
        right = [
            colour == pair.background
            for colour, pair in zip(background_colours(images, self.captions), self.pairs, strict=True)
        ]
        same = ((self.source - self.target).abs().amax(1, keepdim=True) < 0.02).float()
        changed = ((images - self.source).square() * same).sum((1, 2, 3)) / (3 * same.sum((1, 2, 3)))
        moved = self.judge.image_features(images) - self.source_features
        return {
            "target": (ranks == 0).double(),
            "background": torch.tensor(right).double(),
            "outside": 100 * changed.double().sqrt(),
            "directional": 100 * torch.cosine_similarity(moved, self.direction).double(),
        }


def cells_of(row, data, options, given):
    """Five edits each, in their order."""
    name, kind = row.split()
    if name not in ALGORITHMS:
        raise InputError(f"--rows {name}: one of {', '.join(ALGORITHMS)} is needed")
    flags = [*given, "--algo.name", name, "--rep.kind", kind, "--particles", "1"]

    def start(pairs):
        files = [str(data.folder / pair.source) for pair in pairs]
        if ALGORITHMS[name].edits:
            return ["--source-image", *files, "--source-prompt", *(pair.source_prompt for pair in pairs)]
        return ["--rep.init", "image", "--rep.init-images", *files]

    folder = row_folder(Path(options.out) / "edits", row, [*flags, *start(data.pairs[:1])], data.sha256)
    cells = []
    for first in range(0, len(data.pairs), BATCH):
        pairs = data.pairs[first : first + BATCH]
        prompts = ["--prompt", *(pair.prompt for pair in pairs), "--seed", str(first)]
        cells.append(Cell(folder / f"{first:02d}.png", (*flags, *start(pairs), *prompts)))
    return cells


def main(arguments):
    options, prior, given = read_options(arguments, EditOptions)
    data = Data(prior.path)
    rows = [row if " " in row else f"{row} latent" for row in options.rows]
    cells = {row: cells_of(row, data, options, given) for row in rows}
    make([cell for together in zip(*cells.values(), strict=True) for cell in together], options.workers, prior)
    pictures = {"the source as it is": data.source, "the drawn target": data.target}
    summaries = {name: data.scores(images) for name, images in pictures.items()}
    for row in rows:
        images, seconds = load(cells[row])
        pictures[row] = images.flatten(0, 1)
        summaries[row] = {**data.scores(pictures[row]), "seconds": seconds.double().repeat_interleave(BATCH) / BATCH}
    replicates = resampled(len(data.pairs))
    summaries = {
        row: {key: (values.mean().item(), *interval(replicates @ values)) for key, values in columns.items()}
        for row, columns in summaries.items()
    }
    report(summaries, pictures, data, options)


def report(summaries, pictures, data, options):
    """edits.csv, edits.md and edits.png in --out, and the table on the screen; with --write-docs also in
    docs/BENCHMARKS.md."""
    text = markdown(summaries, COLUMNS)
    text += (
        f"\n\n{len(data.pairs)} edits with a known answer; 95 % intervals over them. The change is the root mean "
        "square, in % of the range, in the pixels that are the same in the drawn source and the drawn target."
    )
    out = Path(options.out)
    write_csv(out / "edits.csv", summaries)
    write_markdown(out / "edits.md", text)
    sheet = grid(torch.cat(list(pictures.values())), list(pictures), len(data.pairs), 64)
    write_atomic(out / "edits.png", sheet.save)
    print(text)
    if options.write_docs:
        write_docs("edits", text)
