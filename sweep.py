"""A grid of runs, and the labelled figure that compares them: the flags of sds2d.py, any of them with several values.

    python sweep.py --algo.name sds vsd ism --algo.guidance-scale 7.5 15 30 60 120
    python sweep.py --prompt "a red apple" --prompt "a snowman" --seed 0 1 2
    python sweep.py --algo.guidance-scale 7.5 30 120

Every combination is run. Two swept flags are the figure's rows and columns; one is shown against the steps; each
combination of further ones has a table of its own. A flag that takes several words by itself, like --prompt, is
swept by giving it again. The same command with --out DIR continues a sweep that was stopped, and retries what failed.

`python sds2d.py --help` lists the flags of the runs.
"""

import contextlib
import itertools
import json
import os
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro
from pydantic import PositiveInt, TypeAdapter, ValidationError

from config import parse
from errors import InputError, explain
from priors.checkpoint import read_json, user_path
from recording.folder import lock_folder, write_atomic, write_text
from sweeps.figure import Axis, draw
from sweeps.grid import Run, make_runs, read_grid
from sweeps.on_ray import connected, run_on_ray
from sweeps.results import results, save_csv, save_page
from sweeps.runs import (
    FAILED,
    FINISHED,
    WAITING,
    execute,
    moment_file,
    moments,
    run_folder,
    run_result,
    shared_prior,
    status,
)

MOMENTS = "moments"


@dataclass
class Options:
    out: str | None = None
    """Folder of the sweep, new or the sweep's own. None: outputs/<time>-sweep-<swept flags>."""
    rows: str | None = None
    """The swept flag whose values are the figure's rows, as in algo.name. None: the first."""
    columns: str | None = None
    """The swept flag whose values are the columns, or `moments`, the run along its steps. None: the second, else
    moments."""
    show: PositiveInt = 4
    """Most particles of a prompt that the figure shows."""
    tile: PositiveInt = 128
    """About how wide the figure shows a picture, in pixels; it is enlarged or reduced by a whole factor."""
    ray: str | None = None
    """`local`, or the ADDRESS of a Ray cluster whose machines share this folder and DIR: several runs at once, with
    the same results as without, one a card where there are cards. On CPUs a run takes as many cores as without Ray;
    OMP_NUM_THREADS=1 makes that one."""
    ray_workers: PositiveInt | None = None
    """Runs at once on Ray. None: as many as the cards, or else the cores, are enough for."""


@dataclass
class Sweep:
    """swept: {flag: its values}; command: the words that were given; loops over runs in their order."""

    options: Options
    folder: Path
    swept: dict[str, list[str]]
    runs: list[Run]
    command: list[str]

    def contents(self) -> dict:
        """{name: settings} of the runs: what makes it the same sweep, wherever its folder is."""
        settings = {run.name: {**asdict(run.config), "out": None, "command": None} for run in self.runs}
        return json.loads(json.dumps(settings))

    def summary(self) -> str:
        counts = Counter(status(self.folder, run.name) for run in self.runs)
        return f"{len(self.runs)} runs: " + ", ".join(
            f"{counts[word]} {word}" for word in (FINISHED, FAILED, WAITING) if counts[word]
        )


def plan(arguments: list[str]) -> Sweep:
    """Checks everything, the settings of all runs too; writes nothing. Raises InputError."""
    options, rest = tyro.cli(Options, args=arguments, description=__doc__, return_unknown_args=True)
    try:
        options = TypeAdapter(Options).validate_python(asdict(options))
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"--{fault['loc'][0].replace('_', '-')} {fault['input']}: {fault['msg']}") from error
    swept, runs = make_runs(read_grid(rest))
    if options.ray_workers and not options.ray:
        raise InputError("--ray-workers is for --ray")
    axes(options, swept)
    flags = "-".join(flag.removeprefix("--") for flag in swept)
    folder = user_path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-sweep-{flags[:60]}")
    for run in runs:
        try:
            run.config = parse(run.arguments)
        except InputError as error:
            values = " ".join(f"{flag} {text}" for flag, text in run.values.items())
            raise InputError(f"{error} (the run with {values})") from error
    sweep = Sweep(options, folder, swept, runs, arguments)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        if not (folder / "sweep.json").is_file():
            raise InputError(f"--out {folder} exists and has no sweep; name another folder")
        made = read_json(folder / "sweep.json")
        if sweep.contents() != made.get("runs"):
            other = shlex.join(made.get("command", []))
            raise InputError(f"--out {folder} has another sweep ({other}); name another folder")
    return sweep


def axes(options: Options, swept: dict[str, list[str]]) -> tuple[str, str, list[str]]:
    """(flag of the rows, flag of the columns or MOMENTS, the other swept flags). Raises InputError for what is not
    swept."""

    def chosen(name, also=()):
        flag = name if name in also else f"--{name.strip().lstrip('-').replace('_', '-')}"
        if flag not in (*swept, *also):
            flags = ", ".join(flag.removeprefix("--") for flag in (*swept, *also))
            raise InputError(f"--rows and --columns take what is swept, here {flags}; not {name}")
        return flag

    columns = options.columns and chosen(options.columns, [MOMENTS])
    rows = chosen(options.rows) if options.rows else next((flag for flag in swept if flag != columns), None)
    columns = columns or next((flag for flag in swept if flag != rows), MOMENTS)
    if rows in (None, columns):
        raise InputError("--rows and --columns need two different flags; a single swept flag is the rows")
    return rows, columns, [flag for flag in swept if flag not in (rows, columns)]


# ------------------------------------------------------------------------------------------------------------- the runs


def in_turn(folder: Path, runs: list[Run]) -> Iterator[Run]:
    """Executes the runs in this process → each as it ends."""
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {title(run.values.items())}", file=sys.stderr)
        execute(folder, run.name, run.arguments)
        yield run


def execute_all(sweep: Sweep) -> None:
    """Executes what is not finished, and writes the figure, the page and the table after each run."""
    options, folder = sweep.options, sweep.folder
    pending = [run for run in sweep.runs if status(folder, run.name) != FINISHED]
    priors = [asdict(run.config.prior) for run in pending]
    pending = [
        pending[i] for i in sorted(range(len(pending)), key=lambda i: priors.index(priors[i]))
    ]  # Each loads once.
    with contextlib.ExitStack() as stack:
        if options.ray and pending:
            stack.enter_context(connected(options.ray, options.ray_workers))
        elif pending and pending[0].config.prior == pending[-1].config.prior:
            shared_prior(pending[0].config.prior)  # One that can not be loaded is bad input, not a failure of each run.
        try:
            (folder / "unfinished").mkdir(parents=True, exist_ok=True)
            text = json.dumps({"command": sweep.command, "runs": sweep.contents()}, indent=1, ensure_ascii=False)
            write_text(folder / "sweep.json", text)
        except OSError as error:
            raise InputError(f"--out {folder} can not be written: {error.strerror}") from error
        stack.enter_context(lock_folder(folder))
        show(sweep)
        ends = run_on_ray(folder, pending, options.ray_workers) if options.ray else in_turn(folder, pending)
        for number, run in enumerate(ends, 1):
            if status(folder, run.name) == FAILED:
                print(f"{run.name} failed: {run_result(folder, run.name).get('error')}", file=sys.stderr)
            elif options.ray:  # In this process a run has a bar of its own.
                print(f"[{number}/{len(pending)}] {title(run.values.items())}: finished", file=sys.stderr)
            show(sweep)
    shutil.rmtree(folder / "unfinished")


# ----------------------------------------------------------------------------------------------------------- the
# results


def show(sweep: Sweep) -> None:
    rows = results(sweep.folder, sweep.runs)
    save_csv(sweep.folder / "results.csv", rows)
    sheet = figure(sweep)
    write_atomic(sweep.folder / "figure.png", lambda part: sheet.save(part, optimize=True))
    write_atomic(sweep.folder / "figure.jpg", lambda part: sheet.convert("RGB").save(part, quality=85))
    save_page(sweep.folder / "index.html", sweep.runs, rows, sweep.command, sweep.summary())


def figure(sweep: Sweep):
    """The Pillow image of rows and columns; further swept flags make a table for each of their combinations."""
    rows, columns, others = axes(sweep.options, sweep.swept)
    by_values = {frozenset(run.values.items()): run for run in sweep.runs}
    tables = list(itertools.product(*([(flag, text) for text in sweep.swept[flag]] for flag in others)))
    # {label of a column: the moment that it shows, None for the end}
    heads = moment_labels(sweep.runs) if columns == MOMENTS else dict.fromkeys(sweep.swept[columns])

    def cell(table, row, column):
        label, moment = list(heads.items())[column]
        along = [] if columns == MOMENTS else [(columns, label)]
        run = by_values[frozenset([*tables[table], (rows, sweep.swept[rows][row]), *along])]
        return pictures(sweep, run, moment)

    name = "steps" if columns == MOMENTS else columns.removeprefix("--")
    row_axis = Axis(rows.removeprefix("--"), sweep.swept[rows])
    return draw(row_axis, Axis(name, list(heads)), [title(table) for table in tables], cell, sweep.options.tile)


def title(values) -> str:
    return "   ".join(f"{flag.removeprefix('--')} {text}" for flag, text in values)


def moment_labels(runs: list[Run]) -> dict[str, int | None]:
    """Steps, or parts of runs whose steps differ. The moments of a short run may coincide: one column."""
    steps = {(*moments(run.config), run.config.steps) for run in runs}
    labels = map(str, steps.pop()) if len(steps) == 1 else ["start", "20 %", "40 %", "60 %", "80 %", "end"]
    return dict(zip(labels, [0, 1, 2, 3, 4, None], strict=True))


def pictures(sweep: Sweep, run: Run, moment: int | None) -> list:
    """What the figure shows of a run at one of its moments, None for the end: picture files, a list a prompt, or
    texts."""
    home, particles = run_folder(sweep.folder, run.name), run.config.particles
    if home is None:
        return [WAITING]

    def file(particle):
        end = home / f"final_{particle:02d}.png"
        return end if moment is None else moment_file(home, moments(run.config)[moment], particle)

    first = range(0, len(run.config.prompt) * particles, particles)
    files = [[file(p + i) for i in range(min(sweep.options.show, particles))] for p in first]
    if all(path.is_file() for line in files for path in line):
        return files
    return [FAILED, run_result(sweep.folder, run.name).get("error") or ""]


def main():
    sweep = None
    try:
        sweep = plan(sys.argv[1:])
        execute_all(sweep)
    except (InputError, OSError, KeyboardInterrupt) as error:
        code, line = explain(error)
        if code > 128 and sweep and (sweep.folder / "sweep.json").is_file():
            again = sweep.command if sweep.options.out else [*sweep.command, "--out", str(sweep.folder)]
            line = f"stopped; {sweep.summary()}; python sweep.py {shlex.join(again)} continues"
        print(f"sweep.py: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)
    print(f"{sweep.folder}/figure.png\n{sweep.summary()}")
    sys.exit(any(status(sweep.folder, run.name) != FINISHED for run in sweep.runs))


if __name__ == "__main__":
    main()
