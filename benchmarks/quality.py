"""`python -m benchmarks quality`: how well each method makes what the prompt says; with --paper, each method at its
defaults and at the settings of its paper.

Rows are the real drawings, DDIM sampling and every method that makes pictures, at its defaults, on latents; then SDS
on the other representations. Each prompt is the same run as `sds2d.py --prompt P --seed S`.
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
from benchmarks.pictures import PARTICLES, cells, load_pictures, make_pictures, prompt_runs, read_sheet
from benchmarks.scores import distances, interval, median, resampled, scores
from benchmarks.tables import ROOT, Options, Truth, full_rows, markdown, report
from config import parse, read_options
from errors import require
from recording.folder import write_atomic
from representations import REPRESENTATIONS

QUICK = 21  # prompts; with 14, the rank correlation by names with all 60 was 0.83 in place of 0.91
REAL = "real drawings"
BASE = "sds latent"  # the row that others are compared with
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
COMPARED = ("top1", "frechet", "diversity")  # with BASE, and in the figure
DIFFERENCES = {key: (COLUMNS[key][0], f"+{COLUMNS[key][1]}") for key in COMPARED}


@dataclass
class QualityOptions(Options):
    rows: tuple[str, ...] = ()
    """Only these rows, each a method or "METHOD KIND": --rows sds "vsd pixel". By default, all methods on latents, and
    sds on the other representations."""
    quick: bool = False
    """The first 21 prompts, and only latents; the whole table reuses these pictures."""
    prompts: PositiveInt | None = None
    """Only this number of prompts, the first ones. None: all."""
    shipped: bool = True
    """Use the scores that come with sds2d for rows with the same settings and prior. They were measured before later
    changes of the code; --no-shipped makes all pictures, takes hours, and measures them anew."""


def main(arguments: list[str]) -> None:
    options, given = read_options(QualityOptions, arguments)
    truth = Truth(parse(given).prior.path, "real/prompts.json")
    paper = "--paper" in given
    rows, count = selection(options, paper, len(truth.cases))
    prompts = [tuple(case) for case in truth.cases[:count]]
    runs, row_cells = prompt_runs(prompts), {}
    searched = [word for word in given if word != "--paper"]
    for row in rows:
        row_cells[row] = cells(options.folder, searched, row, runs, truth.sha256)
        if paper:
            row_cells[f"{row}, paper"] = cells(options.folder, given, row, runs, truth.sha256)
    by_cell = scores_by_cell(row_cells, prompts, truth, options)
    by_row = {row: stacked([by_cell[cell.file.stem] for cell in made]) for row, made in row_cells.items()}
    reference = load_file(truth.folder / "real" / "features.safetensors")["features"].double()
    with Image.open(truth.folder / "real" / "pictures.png") as sheet:  # a line per prompt
        real = scores(read_sheet(sheet, len(truth.cases))[:count], truth.judge, prompts, truth.captions)
    measured = replicates({REAL: real} | by_row, real, reference[:count])
    table = {row: intervals(columns) for row, columns in measured.items()}
    text = f"""{markdown(table, COLUMNS)}

{count} prompts × {PARTICLES} particles; 95 % intervals over the prompts. The Fréchet distance is extrapolated to many \
pictures. Diversity and saturation are parts of the real ones, \
{real["diversity"].mean():.3f} and {real["saturation"].mean():.3f}. Seconds are medians, on one core."""
    if paper:
        report("paper", text, options, table, COLUMNS)
    else:
        if BASE in measured:
            text += f"""

Differences to {BASE} on the same prompts (paired bootstrap); bold where 95 % lie to one side of 0:

{markdown(differences(measured), DIFFERENCES)}"""
        report("quick" if options.quick else "quality", text, options, table, COLUMNS, COMPARED)
        if options.write_docs:
            write_shipped(by_cell)


def selection(options: QualityOptions, paper: bool, available: int) -> tuple[list[str], int]:
    """The rows, and the number of prompts. Raises InputError."""
    methods = [name for name, cls in ALGORITHMS.items() if not cls.edits]
    default = list(methods)
    if not (options.quick or paper):
        default += [f"sds {kind}" for kind in REPRESENTATIONS if kind != "latent"]
    rows = full_rows(options.rows or default, methods)
    require(not (options.quick and options.write_docs), "--write-docs is for the whole table, not for --quick")
    count = QUICK if options.quick else options.prompts or available
    require(2 <= count <= available, f"--prompts {count}: from 2 to {available} are needed")
    return rows, count


def scores_by_cell(row_cells: dict, prompts: list, truth: Truth, options: QualityOptions) -> dict[str, dict]:
    """{name of a cell: {column: its score, "features": (n, D)}} of all {row: its cells}, from what ships or from
    pictures, which are made where they are missing."""
    known = read_shipped() if options.shipped else {}
    unknown = [[cell for cell in row if cell.file.stem not in known] for row in row_cells.values()]
    make_pictures(unknown, options.workers)
    for row in row_cells.values():
        new = [index for index, cell in enumerate(row) if cell.file.stem not in known]
        if new:
            images, seconds = load_pictures([row[index] for index in new])
            columns = scores(images, truth.judge, [prompts[index] for index in new], truth.captions)
            columns["seconds"] = seconds / PARTICLES
            for place, index in enumerate(new):
                known[row[index].file.stem] = {key: values[place] for key, values in columns.items()}
    return {cell.file.stem: known[cell.file.stem] for row in row_cells.values() for cell in row}


def stacked(each: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The scores of P cells → {column: (P,), "features": (P, n, D)}."""
    return {key: torch.stack([columns[key] for columns in each]) for key in each[0]}


def replicates(by_row: dict[str, dict], real: dict, reference: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """{row: {column: (P,), "features": (P, n, D)}} → {row: {column: (1 + R,)}}: values over all P prompts, and over R
    bootstrap samples of them, the same samples for every row.

    Diversity and saturation are divided by those of `real`, the scores of the drawings. reference: the features of
    other drawings of the prompts, (P, m, D).
    """
    count = len(reference)
    weights = torch.cat([torch.full((1, count), 1 / count).double(), resampled(count)])  # (1 + R, P)
    measured = {}
    for row, columns in tqdm(by_row.items(), desc="intervals", leave=False):
        means = ("top1", "top5", "background", "diversity", "saturation")
        values = {key: weights @ columns[key] for key in means}
        values["frechet"] = distances(columns["features"], reference, weights)
        for key in ("diversity", "saturation"):
            values[key] /= real[key].mean()
        if "seconds" in columns:  # The real drawings have none.
            values["seconds"] = torch.tensor([median(columns["seconds"], each) for each in weights])
        measured[row] = values
    return measured


def intervals(columns: dict[str, torch.Tensor]) -> dict[str, tuple[float, float, float]]:
    """{column: (1 + R,)} → {column: (number, low, high)}."""
    around = {"frechet": columns["frechet"][0].item()}  # its replicates are biased to one side
    return {key: (x[0].item(), *interval(x[1:], around.get(key))) for key, x in columns.items()}


def differences(measured: dict[str, dict]) -> dict[str, dict]:
    """intervals() of each row minus BASE, on the same bootstrap samples."""
    others = {row: columns for row, columns in measured.items() if row not in (REAL, BASE)}
    base = measured[BASE]
    return {row: intervals({key: columns[key] - base[key] for key in COMPARED}) for row, columns in others.items()}


def read_shipped() -> dict[str, dict]:
    """{name of a cell: {column: its score, "features": (n, D)}}, float64."""
    with safe_open(SHIPPED, "pt") as file:
        names = json.loads(file.metadata()["cells"])
        columns = {key: file.get_tensor(key).double() for key in file.keys()}  # noqa: SIM118, it is no dictionary
    return {name: {key: values[index] for key, values in columns.items()} for index, name in enumerate(names)}


def write_shipped(by_cell: dict[str, dict]) -> None:
    """Writes the scores; features are in float16, like those of the real pictures."""
    columns = stacked(list(by_cell.values()))
    tensors = {key: values.half() if key == "features" else values.float() for key, values in columns.items()}
    write_atomic(SHIPPED, lambda part: save_file(tensors, part, {"cells": json.dumps(list(by_cell))}))
