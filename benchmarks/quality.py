"""`python -m benchmarks quality`: how well each method makes what the prompt says; with --paper, each method at its
defaults and at the settings of its paper.

Rows are the real drawings, DDIM sampling and every method that makes pictures, at its defaults, on latents; then SDS
on the other representations. Each prompt is the same run as `sds2d.py --prompt P
--seed S`.
"""

import json
from dataclasses import dataclass

import torch
from PIL import Image
from pydantic import PositiveInt
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from algorithms import ALGORITHMS
from benchmarks.pictures import cells, load, make, side_by_side
from benchmarks.scores import distances, interval, median, rank_correlation, resampled, scores
from benchmarks.tables import ROOT, Options, Truth, markdown, report
from config import parse, read_options
from errors import require
from recording.folder import write_atomic
from recording.scores import with_background
from representations import REPRESENTATIONS

PARTICLES = 4
QUICK = 21  # prompts; with 14, the rank correlation by names with all 60 was 0.83 in place of 0.91
REAL = "real drawings"
# Scores of the pictures in docs/BENCHMARKS.md, to compare a new method with them without making them again.
SHIPPED = ROOT / "benchmarks" / "quality.safetensors"
COLUMNS = {
    "top1": ("top-1 name", ".0%"),
    "top5": ("top-5 name", ".0%"),
    "background": ("background", ".0%"),
    "frechet": ("Fréchet distance", ".3f"),
    "diversity": ("diversity", ".2f"),
    "saturation": ("saturation", ".2f"),
    "seconds": ("seconds a particle", ".1f"),
}
DIFFERENCES = {"top1": ("top-1 name", "+.0%"), "frechet": ("Fréchet distance", "+.3f")}
DIFFERENCES |= {"diversity": ("diversity", "+.2f")}
BASE = "sds latent"
FIGURE = ("top1", "frechet", "diversity")


@dataclass
class QualityOptions(Options):
    rows: tuple[str, ...] = ()
    """Only these rows, each a method or "METHOD KIND": --rows sds "vsd pixel". None: all on
    latents, and sds on the other representations."""
    quick: bool = False
    """The first 21 prompts, and only latents; the whole table reuses these pictures."""
    prompts: PositiveInt | None = None
    """Only this number of prompts, the first ones. None: all."""
    shipped: bool = True
    """Use the scores that come with sds2d for rows that would come out the same; --no-shipped also makes their
    pictures."""


def main(arguments: list[str]) -> None:
    options, given = read_options(QualityOptions, arguments)
    truth = Truth(parse(given).prior.path, "real/prompts.json")
    paper = "--paper" in given
    rows, count = selection(options, paper, len(truth.cases))
    prompts = [tuple(case) for case in truth.cases[:count]]
    runs = [{"prompt": (with_background(*prompt),), "seed": PARTICLES * i} for i, prompt in enumerate(prompts)]
    runs = [run | {"particles": PARTICLES} for run in runs]
    searched, row_cells = [word for word in given if word != "--paper"], {}
    for row in rows:
        row_cells[row] = cells(options.folder, searched, row, runs, truth.sha256)
        if paper:
            row_cells[f"{row}, paper"] = cells(options.folder, given, row, runs, truth.sha256)
    # One prompt of each row in turn, so that all rows of a stopped table are equally far and were timed alike.
    turns = [cell for turn in zip(*row_cells.values(), strict=True) for cell in turn]
    known = read_shipped() if options.shipped else {}
    make([cell for cell in turns if cell.file.stem not in known], options.workers)
    by_row = {row: row_scores(made, prompts, truth, known) for row, made in row_cells.items()}
    reference = load_file(truth.folder / "real" / "features.safetensors")["features"].double()
    real = scores(real_pictures(truth)[:count], truth.judge, prompts, truth.captions)
    measured = replicates({REAL: real} | by_row, real, reference, count)
    table = {row: intervals(columns) for row, columns in measured.items()}
    text = f"""{markdown(table, COLUMNS)}

{count} prompts × {PARTICLES} particles; 95 % intervals over the prompts. The Fréchet distance is extrapolated to many \
pictures. Diversity and saturation are parts of the real ones, \
{real["diversity"].mean():.3f} and {real["saturation"].mean():.3f}. Seconds are medians, on one core."""
    if not paper:
        latents = {row: scores for row, scores in by_row.items() if row.endswith(" latent")}
        text += differences_to_base(measured) + agreement_with_quick(latents, measured, real, reference, count)
    name = "quick" if options.quick else "paper" if paper else "quality"
    report(name, text, options, table, COLUMNS, () if paper else FIGURE)
    if options.write_docs and not paper:
        write_shipped({cell.file.stem: known[cell.file.stem] for cell in turns})


def selection(options: QualityOptions, paper: bool, available: int) -> tuple[list[str], int]:
    """The rows, and the number of prompts. Raises InputError."""
    methods = [name for name, cls in ALGORITHMS.items() if not cls.edits]
    kinds = [] if options.quick or paper else [f"sds {kind}" for kind in REPRESENTATIONS if kind != "latent"]
    rows = [row if " " in row else f"{row} latent" for row in options.rows or [*methods, *kinds]]
    for row in rows:
        require(row.split()[0] in methods, f"--rows {row}: one of {', '.join(methods)} is needed")
    require(not (options.quick and options.write_docs), "--write-docs is for the whole table, not for --quick")
    count = QUICK if options.quick else options.prompts or available
    require(2 <= count <= available, f"--prompts {count}: from 2 to {available} are needed")
    return rows, count


def differences(columns: dict[str, torch.Tensor], base: dict[str, torch.Tensor]) -> dict[str, tuple]:
    """intervals() of a row minus the base row."""
    return intervals({key: columns[key] - base[key] for key in DIFFERENCES})


def differences_to_base(measured: dict[str, dict]) -> str:
    """A table of the differences of all other rows from BASE; "" if that row is not among them."""
    if BASE not in measured:
        return ""
    others = {row: columns for row, columns in measured.items() if row not in (REAL, BASE)}
    table = {row: differences(columns, measured[BASE]) for row, columns in others.items()}
    title = f"Differences to {BASE} on the same prompts (paired bootstrap); bold where 95 % lie to one side of 0:"
    return f"\n\n{title}\n\n{markdown(table, DIFFERENCES)}"


def agreement_with_quick(by_row: dict, measured: dict, real: dict, reference: torch.Tensor, count: int) -> str:
    """A sentence with the rank correlations of these rows with those of --quick; "" where there are too few."""
    if count <= QUICK or len(by_row) <= 2:
        return ""
    quick, listed = replicates(by_row, real, reference, QUICK), []
    for key in ("frechet", "top1", "diversity", "saturation"):
        rho = rank_correlation(*([part[row][key][0].item() for row in by_row] for part in (measured, quick)))
        listed.append(f"{COLUMNS[key][0]} {rho:.2f}")
    return f"\n\nRank correlation of these rows with those of --quick, on latents: {', '.join(listed)}."


def real_pictures(truth: Truth) -> torch.Tensor:
    """Drawings of each prompt, (P, n, 3, H, W) in [0, 1]; the sheet has one line per prompt."""
    with Image.open(truth.folder / "real" / "pictures.png") as sheet:
        height = sheet.height // len(truth.cases)
        lines = [sheet.crop((0, top, sheet.width, top + height)) for top in range(0, sheet.height, height)]
        return torch.stack([side_by_side(line) for line in lines])


def row_scores(row: list, prompts: list, truth: Truth, known: dict[str, dict]) -> dict[str, torch.Tensor]:
    """{column: (P,), "features": (P, n, D)} of a row's cells, from `known`, {cell: its scores}; missing ones are
    measured and added to it."""
    fresh = [index for index, cell in enumerate(row) if cell.file.stem not in known]
    if fresh:
        images, seconds = load([row[index] for index in fresh])
        found = scores(images, truth.judge, [prompts[index] for index in fresh], truth.captions)
        found["seconds"] = seconds / PARTICLES
        for place, index in enumerate(fresh):
            known[row[index].file.stem] = {key: values[place] for key, values in found.items()}
    return {key: torch.stack([known[cell.file.stem][key] for cell in row]) for key in known[row[0].file.stem]}


def replicates(by_row: dict[str, dict], real: dict, reference: torch.Tensor, count: int) -> dict[str, dict]:
    """{row: {column: (1 + R,)}}: values over the first `count` prompts, and over R bootstrap samples of them, the same
    samples for every row.

    Diversity and saturation are divided by those of `real`, the scores of the drawings. reference: the features of
    other drawings of the prompts, (P, m, D).
    """
    weights = torch.cat([torch.full((1, count), 1 / count).double(), resampled(count)])  # (1 + R, P)
    measured = {}
    for row, columns in tqdm(by_row.items(), desc="intervals", leave=False):
        columns = {key: values[:count] for key, values in columns.items()}
        values = {"frechet": distances(columns.pop("features"), reference[:count], weights)}
        values |= {key: weights @ column for key, column in columns.items()}
        for key in ("diversity", "saturation"):
            values[key] /= real[key][:count].mean()
        if "seconds" in columns:
            values["seconds"] = torch.tensor([median(columns["seconds"], each) for each in weights])
        measured[row] = values
    return measured


def intervals(columns: dict[str, torch.Tensor]) -> dict[str, tuple[float, float, float]]:
    """{column: (1 + R,)} → {column: (number, low, high)}."""
    around = {"frechet": columns["frechet"][0].item()}  # its replicates are biased to one side
    return {key: (x[0].item(), *interval(x[1:], around.get(key))) for key, x in columns.items()}


def read_shipped() -> dict[str, dict]:
    """{cell: {column: its score}}, float64."""
    if not SHIPPED.is_file():
        return {}
    with safe_open(SHIPPED, "pt") as file:
        names = json.loads(file.metadata()["cells"])
        columns = {key: file.get_tensor(key).double() for key in file.keys()}  # noqa: SIM118, it is no dictionary
    return {name: {key: values[index] for key, values in columns.items()} for index, name in enumerate(names)}


def write_shipped(known: dict[str, dict]) -> None:
    """Writes the scores; features are in float16, like those of the real pictures."""
    columns = {key: torch.stack([cell[key] for cell in known.values()]) for key in next(iter(known.values()))}
    tensors = {key: values.half() if key == "features" else values.float() for key, values in columns.items()}
    write_atomic(SHIPPED, lambda part: save_file(tensors, part, {"cells": json.dumps(list(known))}))
