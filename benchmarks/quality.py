"""`python benchmark.py quality`: which method makes what the prompt says, by numbers.

Rows are the real drawings, DDIM sampling and every method that makes pictures, at its defaults, on latents; then
the three whose distance is least, on pixels and 2D Gaussians. Each prompt is the run that `sds2d.py --prompt P
--seed S` would make of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from algorithms import ALGORITHMS
from benchmarks import shipped
from benchmarks.options import Options, read_options
from benchmarks.pictures import Cell, load, make, row_folder, side_by_side
from benchmarks.scores import Frechet, Reference, interval, median, rank_correlation, resampled, scores
from benchmarks.tables import asset, chart, markdown, write_csv, write_docs, write_markdown
from errors import InputError
from priors.checkpoint import checkpoint_file, digest, locate
from priors.evaluation import Judge, with_background

PARTICLES = 4
QUICK = 14  # prompts, the first two of each category
BEST = 3
REAL = "real drawings"
COLUMNS = {
    "top1": "first of all names",
    "top5": "among 5",
    "background": "background",
    "frechet": "Fréchet distance",
    "diversity": "diversity",
    "saturation": "saturation",
    "seconds": "seconds a particle",
}


@dataclass
class QualityOptions(Options):
    rows: tuple[str, ...] = ()
    """Only these, each a method or "METHOD KIND": --rows sds "vsd pixel". None: all, and the best three on pixels
    and Gaussians."""
    quick: bool = False
    """Fourteen prompts, two of each category, and latents alone; what it makes is part of the whole table."""
    prompts: int | None = None
    """Only the first so many prompts. None: all."""
    shipped: bool = True
    """Take the scores that come with sds2d for rows that would come out the same; --no-shipped makes their
    pictures, too."""


class Data:
    """What a checkpoint's folder knows of the truth: its names, its CLIP, and the real pictures of the prompts."""

    def __init__(self, path):
        folder = locate(path)
        real = Path(folder) / "real"
        self.captions = checkpoint_file(folder, "captions.json")
        if (
            "names" not in self.captions
            or not (Path(folder) / "clip").is_dir()
            or not (real / "prompts.json").is_file()
        ):
            raise InputError(f"--prior.path {path}: quality needs a folder with captions.json, clip/ and real/")
        from safetensors.torch import load_file

        self.prompts = [tuple(pair) for pair in json.loads((real / "prompts.json").read_text(encoding="utf-8"))]
        self.reference = load_file(real / "features.safetensors")["features"].double()
        with Image.open(real / "pictures.png") as sheet:
            height = sheet.height // len(self.prompts)
            lines = [sheet.crop((0, top, sheet.width, top + height)) for top in range(0, sheet.height, height)]
            self.pictures = torch.stack([side_by_side(line) for line in lines])
        self.judge, self.sha256 = Judge(folder / "clip"), digest(folder)


def cells_of(row, data, options, given):
    """The row's cells, one a prompt, in the order of the prompts."""
    name, kind = row.split()
    flags = [*given, "--algo.name", name, "--rep.kind", kind, "--particles", str(PARTICLES)]
    folder = row_folder(options.out, row, flags, data.sha256)
    return [
        Cell(
            folder / f"{index:02d}.png", (*flags, "--prompt", with_background(*pair), "--seed", str(PARTICLES * index))
        )
        for index, pair in enumerate(data.prompts)
    ]


class Row:
    """A row's scores by prompt, as scores() has them; summary() is the table's."""

    def __init__(self, by_prompt):
        self.by_prompt = {key: values for key, values in by_prompt.items() if key != "features"}
        self.distance = Frechet(by_prompt["features"])

    def values(self, weights, at):
        """{column: number}, the prompts weighted by (P,); at: the reference, likewise."""
        distance, raw = self.distance(weights, at)
        means = {key: (weights @ value).item() for key, value in self.by_prompt.items() if key != "seconds"}
        seconds = {"seconds": median(self.by_prompt["seconds"], weights)} if "seconds" in self.by_prompt else {}
        return {**means, **seconds, "frechet": distance, "raw": raw}

    def summary(self, even, replicates):
        """{column: (number, low, high)}; even and replicates: all prompts alike, and resampled, with the reference
        at each."""
        summaries, again = self.values(*even), [self.values(*replicate) for replicate in replicates]
        return {
            key: (value, *interval([values[key] for values in again], value if key in ("frechet", "raw") else None))
            for key, value in summaries.items()
        }


class Table:
    """The rows' cells, their scores where they are known already, and how both are come by."""

    def __init__(self, data, options, prior, given):
        self.data, self.options, self.prior, self.given = data, options, prior, given
        self.cells, self.known, self.shipped = {}, {}, shipped.read(data.prompts) if options.shipped else {}

    def make(self, rows, count):
        """The first `count` prompts of these rows, one by one, so that a stopped table is as far in every row, and
        all rows see the machine at the same times."""
        for row in rows:
            self.cells[row] = cells_of(row, self.data, self.options, self.given)
            self.known[row] = self.shipped.get(self.name(row))
        missing = [self.cells[row][index] for index in range(count) for row in rows if index >= self.length(row)]
        if missing:
            make(missing, self.options.workers, self.prior)

    def name(self, row):
        return self.cells[row][0].file.parent.name

    def length(self, row):
        """How many prompts the known scores are of."""
        return len(self.known[row]["features"]) if self.known[row] else 0

    def scores(self, row, count):
        """Of the first `count` prompts."""
        known = self.length(row)
        if known < count:
            images, seconds = load(self.cells[row][known:count])
            summaries = scores(images, self.data.judge, self.data.prompts[known:count], self.data.captions)
            summaries["seconds"] = seconds.double() / images.shape[1]
            self.known[row] = (
                {key: torch.cat([self.known[row][key], summaries[key]]) for key in summaries} if known else summaries
            )
        return {key: values[:count] for key, values in self.known[row].items()}

    def measure(self, rows, count):
        """{row: its summary} over the first `count` prompts, the real drawings first."""
        data = self.data
        reference = Reference(data.reference[:count])
        weights = [torch.full((count,), 1 / count).double(), *resampled(count)]
        even, *replicates = [(each, reference.at(each)) for each in weights]
        real = scores(data.pictures[:count], data.judge, data.prompts[:count], data.captions)
        summaries = {REAL: Row(real).summary(even, replicates)}
        for row in tqdm(rows, desc="intervals", leave=False):
            summaries[row] = Row(self.scores(row, count)).summary(even, replicates)
        return summaries


def best(summaries, count=BEST):
    """The methods whose latents come nearest to the real pictures."""
    methods = [row for row in summaries if row.endswith(" latent") and not row.startswith("ddim")]
    return [row.split()[0] for row in sorted(methods, key=lambda row: summaries[row]["frechet"][0])[:count]]


def main(arguments):
    options, prior, given = read_options(arguments, QualityOptions)
    data = Data(prior.path)
    if options.prompts is not None and not 2 <= options.prompts <= len(data.prompts):
        raise InputError(f"--prompts {options.prompts}: from 2 to {len(data.prompts)} are needed")
    count = QUICK if options.quick else options.prompts or len(data.prompts)
    rows = [row if " " in row else f"{row} latent" for row in options.rows]
    for row in rows:
        if row.split()[0] not in ALGORITHMS or ALGORITHMS[row.split()[0]].edits:
            raise InputError(
                f"--rows {row}: one of {', '.join(name for name, cls in ALGORITHMS.items() if not cls.edits)} is needed"
            )
    if not rows:
        rows = [
            "ddim latent",
            *(f"{name} latent" for name, cls in ALGORITHMS.items() if not cls.edits and name != "ddim"),
        ]
    table = Table(data, options, prior, given)
    table.make(rows, count)
    summaries = table.measure(rows, count)
    if not options.rows and not options.quick:
        further = [f"{name} {kind}" for kind in ("pixel", "gaussian2d") for name in best(summaries)]
        table.make(further, count)
        summaries |= {row: summary for row, summary in table.measure(further, count).items() if row != REAL}
    report(summaries, rows, table, options, count)


def report(summaries, rows, table, options, count):
    """quality.csv, quality.md and quality.png (quick.… of --quick) in --out, and the table on the screen; with
    --write-docs also in docs/BENCHMARKS.md."""
    text = [markdown(summaries, COLUMNS, summaries[REAL]), ""]
    pictures, real = count * PARTICLES, {key: value for key, (value, *_) in summaries[REAL].items()}
    text += [
        f"{count} prompts × {PARTICLES} particles; 95 % intervals over the prompts. The Fréchet distance is "
        f"extrapolated to many pictures; at these {pictures} it is {real['raw'] - real['frechet']:.4f} larger for the "
        f"real drawings and {mean_bias(summaries, rows):.4f} for the methods. Diversity and saturation are parts of "
        "the real ones, "
        f"{real['diversity']:.3f} and {real['saturation']:.3f}. Seconds are medians, on one core."
    ]
    latents = [row for row in rows if row.endswith(" latent")]
    if count > QUICK and len(latents) > 2:
        quick = table.measure(latents, QUICK)
        agree = []
        for key in ("frechet", "top1", "diversity", "saturation"):
            ours, theirs = ([part[row][key][0] for row in latents] for part in (summaries, quick))
            agree.append(f"{COLUMNS[key]} {rank_correlation(ours, theirs):.2f}")
        text += ["", f"Rank correlation of these rows with those of --quick, on latents: {', '.join(agree)}."]
    text = "\n".join(text)
    out = Path(options.out)
    stem = "quick" if options.quick else "quality"
    write_csv(out / f"{stem}.csv", summaries)
    write_markdown(out / f"{stem}.md", text)
    chart(out / f"{stem}.png", summaries, REAL)
    print(text)
    if options.write_docs:
        write_docs("quality", text)
        chart(asset("quality.png"), summaries, REAL)
        write_csv(asset("quality.csv"), summaries)
        shipped.keep({table.name(row): table.known[row] for row in table.cells}, table.data.prompts)


def mean_bias(summaries, rows):
    return sum(summaries[row]["raw"][0] - summaries[row]["frechet"][0] for row in rows) / len(rows)
