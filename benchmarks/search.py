"""`python -m benchmarks search --algo.name cfd --algo.guidance-scale 2 3 5 --rep.lr 0.02 0.05 0.1`: defaults for a
method on a representation.

Flags take several values, as in sweep.py. Their combinations are tried on a quarter of the prompts, the better half of
them on twice as many, and the better half of these on all: successive halving, Jamieson and Talwalkar 2016, arXiv
1502.07943. None of the prompts is in the quality table. Better means a smaller Fréchet distance to DDIM's pictures of
the same prompts.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import PositiveInt

from benchmarks.pictures import Cell, cells, load_pictures, make_pictures, prompt_runs
from benchmarks.scores import distances, scores
from benchmarks.tables import Options, Truth
from config import flatten, parse, read_options
from errors import require
from recording.figure import title
from recording.folder import write_text
from recording.scores import draw_prompts
from sweep import make_runs, read_grid


@dataclass
class SearchOptions(Options):
    trials: PositiveInt = 24
    """Maximum number of combinations, drawn at random if the grid has more."""
    prompts: PositiveInt = 40
    """Prompts of the last round, four pictures each."""
    write: bool = False
    """Write the best settings into the checkpoint's sds2d.json, replacing its entry for the row."""


def main(arguments: list[str]) -> None:
    options, given = read_options(SearchOptions, arguments)
    grid = read_grid(given)
    row = f"{only_value(grid, 'algo.name', 'sds')} {only_value(grid, 'rep.kind', 'latent')}"
    _, trials = make_runs(grid)
    trials = random.Random(0).sample(trials, min(options.trials, len(trials)))
    prior = [word for key in grid if key.startswith("prior.") for words in grid[key].values() for word in words]
    truth = Truth(parse(prior).prior.path, "real/prompts.json")
    prompts = searched_prompts(truth, max(4, options.prompts))
    runs = prompt_runs(prompts, first_seed=1000)

    def row_cells(row: str, flags: list[str], count: int) -> list[Cell]:
        return cells(options.folder / "search", flags, row, runs[:count], truth.sha256)

    def measure(cells: list[Cell]) -> dict[str, torch.Tensor]:
        images, _ = load_pictures(cells)
        return scores(images, truth.judge, prompts[: len(cells)], truth.captions)

    for share in (4, 2, 1):
        count = len(prompts) // share
        even = torch.full((1, count), 1 / count, dtype=torch.float64)
        reference = row_cells("ddim latent", prior, count)
        tried = [row_cells(row, trial.arguments, count) for trial in trials]
        make_pictures([reference, *tried], options.workers)
        sampled, ranked = measure(reference), []
        for trial, made in zip(trials, tried, strict=True):
            found = measure(made)
            distance = distances(found["features"], sampled["features"], even).item()
            top1, top5 = found["top1"].mean(), found["top5"].mean()
            diversity = found["diversity"].mean() / sampled["diversity"].mean()
            line = f"distance {distance:.4f}, top-1 {top1:.0%}, top-5 {top5:.0%}, diversity {diversity:.2f}"
            print(f"{count} prompts: {line}: {title(trial.values.items())}", flush=True)
            ranked.append((distance, trial, made[0].config))
        ranked.sort(key=lambda entry: entry[0])
        trials = [trial for _, trial, _ in ranked[: max(1, len(ranked) // 2)]]
    _, _, config = ranked[0]
    names = [key.replace("-", "_") for key in grid if not key.startswith("prior.")]
    best = {name: flatten(config)[name] for name in names}
    print(f'"{row}": {json.dumps(best)}')
    if options.write:
        write_defaults(truth.folder / "sds2d.json", row, best)


def only_value(grid: dict[str, dict], setting: str, default: str) -> str:
    """The value of a setting that is not searched, taken out of the grid. Raises InputError for several."""
    values = list(grid.pop(setting, [default]))
    require(len(values) == 1, f"--{setting} {' '.join(values)}: one is needed; each has a search of its own")
    return values[0]


def searched_prompts(truth: Truth, count: int) -> list[tuple[str, str]]:
    """`count` (phrase, background) pairs, or as many as there are, none of them in the quality table."""
    table = [tuple(case) for case in truth.cases]
    return [prompt for prompt in draw_prompts(truth.captions, 400, seed=1) if prompt not in table][:count]


def write_defaults(file: Path, row: str, settings: dict) -> None:
    """Writes one line per row, like the existing file."""
    defaults = json.loads(file.read_text(encoding="utf-8")) | {row: settings}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in defaults.items())
    write_text(file, f"{{\n{lines}\n}}\n")
