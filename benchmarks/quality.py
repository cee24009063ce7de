"""`python benchmark.py quality`: which method makes what the prompt says, by numbers.

Rows are the real drawings, DDIM sampling and every method that makes pictures, at its defaults, on latents; then the three whose
distance is least, on pixels and 2D Gaussians. Each prompt is the run that `sds2d.py --prompt P --seed S` would make of it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from algorithms import ALGORITHMS
from benchmarks.making import Cell, load, make, row_folder, side_by_side
from benchmarks.scores import Frechet, Reference, interval, median, rank_correlation, resampled, scores
from benchmarks.settings import Settings, split
from benchmarks.tables import asset, chart, say, write_csv, write_markdown, write_readme
from evaluation import Judge, with_background
from prior import InputError, checkpoint_file, locate
from priors.checkpoint import digest

PARTICLES = 4
QUICK = 7  # prompts, the first of each category
BEST = 3
REAL = "real drawings"
COLUMNS = {"top1": "first of all names", "top5": "among 5", "background": "background", "frechet": "Fréchet distance",
           "diversity": "diversity", "saturation": "saturation", "seconds": "seconds a particle"}  # fmt: skip


@dataclass
class QualitySettings(Settings):
    rows: tuple[str, ...] = ()
    """Only these, each a method or "METHOD KIND": --rows sds "vsd pixel". None: all, and the best three on pixels and Gaussians."""
    quick: bool = False
    """Seven prompts, one of each category, and latents alone; what it makes is part of the whole table."""
    prompts: int | None = None
    """Only the first so many prompts. None: all."""


class World:
    """What a checkpoint's folder knows of the truth: its names, its CLIP, and the real pictures of the prompts."""

    def __init__(self, path):
        folder = locate(path)
        real = Path(folder) / "real"
        self.captions = checkpoint_file(folder, "captions.json")
        if "names" not in self.captions or not (Path(folder) / "clip").is_dir() or not (real / "prompts.json").is_file():
            raise InputError(f"--prior.path {path}: quality needs a folder with captions.json, clip/ and real/")
        from safetensors.torch import load_file

        self.prompts = [tuple(pair) for pair in json.loads((real / "prompts.json").read_text(encoding="utf-8"))]
        self.reference = load_file(real / "features.safetensors")["features"].double()
        with Image.open(real / "pictures.png") as sheet:
            height = sheet.height // len(self.prompts)
            lines = [sheet.crop((0, top, sheet.width, top + height)) for top in range(0, sheet.height, height)]
            self.pictures = torch.stack([side_by_side(line) for line in lines])
        self.judge, self.sha256 = Judge(folder / "clip"), digest(folder)


def cells_of(row, world, options, given):
    """The row's cells, one a prompt, in the order of the prompts."""
    name, kind = row.split()
    flags = [*given, "--algo.name", name, "--rep.kind", kind, "--particles", str(PARTICLES)]
    folder = row_folder(options.out, row, flags, world.sha256)
    return [Cell(folder / f"{index:02d}.png", (*flags, "--prompt", with_background(*pair), "--seed", str(PARTICLES * index)))
            for index, pair in enumerate(world.prompts)]  # fmt: skip


class Row:
    """A row's scores by prompt; summary() is the table's, of some of the prompts."""

    def __init__(self, images, seconds, world):
        count = len(images)
        self.by_prompt, features = scores(images, world.judge, world.prompts[:count], world.captions)
        if seconds is not None:
            self.by_prompt["seconds"] = seconds.double() / images.shape[1]
        self.distance = Frechet(features)

    def values(self, weights, at):
        """{column: number}, the prompts weighted by (P,); at: the reference, likewise."""
        distance, raw = self.distance(weights, at)
        means = {key: (weights @ value).item() for key, value in self.by_prompt.items() if key != "seconds"}
        seconds = {"seconds": median(self.by_prompt["seconds"], weights)} if "seconds" in self.by_prompt else {}
        return {**means, **seconds, "frechet": distance, "raw": raw}

    def summary(self, even, replicates):
        """{column: (number, low, high)}; even and replicates: all prompts alike, and resampled, with the reference at each."""
        found, again = self.values(*even), [self.values(*replicate) for replicate in replicates]
        return {key: (value, *interval([values[key] for values in again], value if key in ("frechet", "raw") else None))
                for key, value in found.items()}  # fmt: skip


def measure(rows, cells, world, count):
    """{row: its summary} over the first `count` prompts, the real drawings first."""
    reference = Reference(world.reference[:count])
    even, *replicates = [(weights, reference.at(weights)) for weights in (torch.full((count,), 1 / count).double(), *resampled(count))]
    found = {REAL: Row(world.pictures[:count], None, world).summary(even, replicates)}
    for row in tqdm(rows, desc="intervals", leave=False):
        found[row] = Row(*load(cells[row][:count]), world).summary(even, replicates)
    return found


def best(found, count=BEST):
    """The methods whose latents come nearest to the real pictures."""
    methods = [row for row in found if row.endswith(" latent") and not row.startswith("ddim")]
    return [row.split()[0] for row in sorted(methods, key=lambda row: found[row]["frechet"][0])[:count]]


def main(arguments):
    options, prior, given = split(arguments, QualitySettings)
    world = World(prior.path)
    if options.prompts is not None and not 2 <= options.prompts <= len(world.prompts):
        raise InputError(f"--prompts {options.prompts}: from 2 to {len(world.prompts)} are needed")
    count = QUICK if options.quick else options.prompts or len(world.prompts)
    rows = [row if " " in row else f"{row} latent" for row in options.rows]
    for row in rows:
        if row.split()[0] not in ALGORITHMS or ALGORITHMS[row.split()[0]].edits:
            raise InputError(f"--rows {row}: one of {', '.join(name for name, cls in ALGORITHMS.items() if not cls.edits)} is needed")
    if not rows:
        rows = ["ddim latent", *(f"{name} latent" for name, cls in ALGORITHMS.items() if not cls.edits and name != "ddim")]
    cells = {row: cells_of(row, world, options, given) for row in rows}

    def made(some):
        """Prompt by prompt, so that a stopped table is as far in every row, and all rows see the machine at the same times."""
        make([cells[row][index] for index in range(count) for row in some], options.workers, prior)

    made(rows)
    found = measure(rows, cells, world, count)
    if not options.rows and not options.quick:
        further = [f"{name} {kind}" for kind in ("pixel", "gaussian2d") for name in best(found)]
        cells |= {row: cells_of(row, world, options, given) for row in further}
        made(further)
        found |= {row: summary for row, summary in measure(further, cells, world, count).items() if row != REAL}
    report(found, rows, cells, world, options, count)


def report(found, rows, cells, world, options, count):
    """results.csv, results.md and results.png in --out, the table on the screen and, where it is asked for, in the README."""
    text = [say(found, COLUMNS, found[REAL]), ""]
    pictures = count * PARTICLES
    text += [f"{count} prompts × {PARTICLES} particles; 95 % intervals over the prompts. The Fréchet distance is extrapolated to many "
             f"pictures; at these {pictures} it is {found[REAL]['raw'][0] - found[REAL]['frechet'][0]:.4f} larger for the real "
             f"drawings and {mean_bias(found, rows):.4f} for the methods. Diversity and saturation are parts of the real ones, "
             f"{found[REAL]['diversity'][0]:.3f} and {found[REAL]['saturation'][0]:.3f}. Seconds are medians, on one core."]  # fmt: skip
    if count > QUICK and len(rows) > 2:
        quick = measure(rows, cells, world, QUICK)
        agree = []
        for key in ("frechet", "top1", "diversity", "saturation"):
            ours, theirs = ([table[row][key][0] for row in rows] for table in (found, quick))
            agree.append(f"{COLUMNS[key]} {rank_correlation(ours, theirs):.2f}")
        text += ["", f"Rank correlation of these rows with those of --quick, on latents: {', '.join(agree)}."]
    text = "\n".join(text)
    out = Path(options.out)
    stem = "quick" if options.quick else "quality"
    write_csv(out / f"{stem}.csv", found)
    write_markdown(out / f"{stem}.md", text)
    chart(out / f"{stem}.png", found, REAL)
    print(text)
    if options.write_readme:
        write_readme("quality", text)
        chart(asset("quality.png"), found, REAL)
        write_csv(asset("quality.csv"), found)


def mean_bias(found, rows):
    return sum(found[row]["raw"][0] - found[row]["frechet"][0] for row in rows) / len(rows)
