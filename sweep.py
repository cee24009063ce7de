"""Runs a grid of settings and compares the runs in a labelled figure. Any flag of sds2d.py can have several values.

    python sweep.py --algo.name sds vsd ism --algo.guidance-scale 7.5 15 30 60 120
    python sweep.py --prompt "a red apple" --prompt "a snowman" --seed 0 1 2
    python sweep.py --algo.guidance-scale 7.5 30 120

Every combination is run. Two swept flags become the figure's rows and columns; a single one is shown against the
steps; each combination of further ones gets its own table. A flag that itself takes several values, like --prompt, is
swept by repeating it. The same command with --out DIR continues a stopped sweep and retries failed runs; --out DIR
without swept flags redraws the figure, with other --rows, --columns, --tile, --show or --labels.

`python sds2d.py --help` lists the flags of the runs.
"""

import contextlib
import itertools
import json
import os
import shlex
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveInt

from config import parse, read_options
from errors import InputError, explain, require
from priors.files import read_json, user_path
from recording.folder import lock_folder, write_atomic, write_csv, write_text
from recording.page import time_left
from recording.processes import in_processes, require_no_gpu_number
from sweeps import runs
from sweeps.figure import Axis, draw
from sweeps.grid import Run, make_runs, read_grid, title
from sweeps.results import results, save_page

MOMENTS = "moments"


@dataclass
class Options:
    out: str | None = None
    """Folder of the sweep, new or of the sweep to continue. None: outputs/<time>-sweep-<swept flags>."""
    rows: str | None = None
    """The swept flag for the figure's rows, such as algo.name. None: the first."""
    columns: str | None = None
    """The swept flag for the columns, or `moments` for the steps of each run. None: the second, or moments if there is
    only one."""
    show: PositiveInt = 4
    """Maximum number of particles per prompt in the figure."""
    tile: PositiveInt = 128
    """Approximate width of each picture in the figure, in pixels; pictures are scaled by an integer factor."""
    labels: tuple[str, ...] = ()
    """New names for settings or values in the figure, each OLD=NEW, such as algo.guidance-scale=CFG sds=SDS."""
    list: bool = False
    """Print the command of each run, and run nothing."""
    only: tuple[NonNegativeInt, ...] = ()
    """Do only the runs with these numbers, from 0, e.g. in a Slurm array; several processes may share a folder."""
    dry_run: bool = False
    """Print how many runs are left and, if some have finished, about how long the rest will take."""
    jobs: PositiveInt | None = None
    """Number of parallel runs, each in its own process, spread over the GPUs if any. None: one, in this process."""


@dataclass
class Sweep:
    """swept: {setting: its values}, outermost loop first; runs: in that order; command: the arguments given."""

    options: Options
    folder: Path
    swept: dict[str, list[str]]
    runs: list[Run]
    command: list[str]

    def chosen(self) -> list[Run]:
        """The runs that --only selects, or all."""
        return [run for number, run in enumerate(self.runs) if not self.options.only or number in self.options.only]

    def contents(self) -> dict:
        """{run name: settings}, which identify the sweep wherever its folder is."""
        settings = {run.name: {**asdict(run.config), "out": None, "command": None} for run in self.runs}
        return json.loads(json.dumps(settings))

    def summary(self) -> str:
        counts = Counter(runs.status(self.folder, run.name) for run in self.runs)
        words = [f"{counts[word]} {word}" for word in (runs.FINISHED, runs.FAILED, runs.WAITING) if counts[word]]
        return f"{len(self.runs)} runs: {', '.join(words)}"


def plan(arguments: list[str]) -> Sweep:
    """Checks everything, including the settings of all runs; writes nothing. Raises InputError."""
    options, rest = read_options(Options, arguments, __doc__)
    if not rest and options.out and (user_path(options.out) / "sweep.json").is_file():
        arguments = [*read_json(user_path(options.out) / "sweep.json")["command"], *arguments]
        options, rest = read_options(Options, arguments, __doc__)
    swept, grid = make_runs(read_grid(rest))
    for number in options.only:
        good = number < len(grid) and not options.jobs
        require(good, f"--only {number}: must be from 0 to {len(grid) - 1}, and without --jobs")
    for label in options.labels:
        require("=" in label, f"--labels {label}: must be OLD=NEW")
    axes(options, swept)
    folder = user_path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-sweep-{'-'.join(swept)[:60]}")
    for run in grid:
        try:
            run.config = parse(run.arguments)
        except InputError as error:
            raise InputError(f"{error} (in the run with {title(run.values.items())})") from error
    sweep = Sweep(options, folder, swept, grid, arguments)
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        is_sweep = (folder / "sweep.json").is_file()
        require(is_sweep, f"--out {folder} exists but has no sweep in it; choose another folder")
        made = read_json(folder / "sweep.json")
        other = shlex.join(made.get("command", []))
        same = sweep.contents() == made.get("runs")
        require(same, f"--out {folder} has another sweep in it ({other}); choose another folder")
    return sweep


def axes(options: Options, swept: dict[str, list[str]]) -> tuple[str, str, list[str]]:
    """The settings for the rows and the columns (or MOMENTS for the latter), and the other swept ones."""
    given = [name and name.lstrip("-").replace("_", "-") for name in (options.rows, options.columns)]
    free = [name for name in swept if name not in given]
    rows = given[0] or (free.pop(0) if free else "")
    columns = given[1] or (free.pop(0) if free else MOMENTS)
    if rows == columns or rows not in swept or columns not in (*swept, MOMENTS):
        given = f"--rows {options.rows} --columns {options.columns}"
        raise InputError(f"{given}: choose two different swept flags ({', '.join(swept)}) or --columns moments")
    return rows, columns, free


# ------------------------------------------------------------------------------------------------------------- the runs


def execute_all(sweep: Sweep) -> None:
    """Executes the unfinished runs, and updates the figure, the page and the table after each."""
    options, folder = sweep.options, sweep.folder
    pending = [run for run in sweep.chosen() if runs.status(folder, run.name) != runs.FINISHED]
    priors = [run.config.prior for run in pending]
    pending.sort(key=lambda run: priors.index(run.config.prior))  # so that each prior is loaded once
    require_no_gpu_number((prior.device for prior in priors), options.jobs or 1)
    if pending and not options.jobs and all(prior == priors[0] for prior in priors):
        runs.shared_prior(priors[0])  # If it cannot be loaded, stop here instead of failing every run.
    try:
        (folder / "unfinished").mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": sweep.command, "runs": sweep.contents()}, indent=1, ensure_ascii=False)
        write_text(folder / "sweep.json", text)
    except OSError as error:
        raise InputError(f"--out {folder} cannot be written: {error.strerror}") from error
    with contextlib.ExitStack() as stack:
        if not options.only:  # With --only, each run's folder is locked instead.
            stack.enter_context(lock_folder(folder))
        stack.callback(show, sweep)  # at the end, also if stopped early
        if pending:
            show(sweep, "")
        start, count = time.perf_counter(), min(options.jobs or 1, len(pending))
        calls = [(folder, run.name, run.arguments) for run in pending]
        for number, index in enumerate(in_processes(runs.execute, calls, count, torch.get_num_threads()), 1):
            run = pending[index]
            reason = runs.run_result(folder, run.name).get("error")
            status = f"{runs.status(folder, run.name)}{f': {reason}' if reason else ''}"
            print(f"[{number}/{len(pending)}] {title(run.values.items())} {status}", file=sys.stderr)
            if rest := len(pending) - number:
                show(sweep, time_left((time.perf_counter() - start) / number * rest))
    with contextlib.suppress(OSError):
        (folder / "unfinished").rmdir()  # It is not empty while other --only processes are running.


# ---------------------------------------------------------------------------------------------------------- the results


def show(sweep: Sweep, left: str | None = None) -> None:
    """Writes the table, the figure and the page of the runs so far. left: the time left, as text; None: the sweep is
    over."""
    rows = results(sweep.folder, sweep.runs)
    write_csv(sweep.folder / "results.csv", rows)
    picture = figure(sweep)
    for kind in ("png", "jpg", "pdf"):
        write_atomic(sweep.folder / f"figure.{kind}", picture.savefig)
    save_page(sweep.folder / "index.html", sweep.runs, rows, sweep.command, sweep.summary(), left)


def figure(sweep: Sweep):
    """The matplotlib Figure of rows and columns, with a table for each combination of the other swept settings."""
    rows, columns, others = axes(sweep.options, sweep.swept)
    # {column label: the moment that it shows; None: the end}
    heads = moment_labels(sweep.runs) if columns == MOMENTS else dict.fromkeys(sweep.swept[columns])
    tables = list(itertools.product(*([(name, text) for text in sweep.swept[name]] for name in others)))
    by_values, cells = {frozenset(run.values.items()): run for run in sweep.runs}, {}
    for (i, table), (j, row), (k, head) in itertools.product(*map(enumerate, (tables, sweep.swept[rows], heads))):
        along = [] if columns == MOMENTS else [(columns, head)]
        cells[i, j, k] = pictures(sweep, by_values[frozenset([*table, (rows, row), *along])], heads[head])
    names = dict(label.split("=", 1) for label in sweep.options.labels)

    def axis(name, texts):
        return Axis(names.get(name, name), [names.get(text, text) for text in texts])

    titles = [title([(names.get(name, name), names.get(text, text)) for name, text in table]) for table in tables]
    column_axis = axis("steps" if columns == MOMENTS else columns, heads)
    return draw(axis(rows, sweep.swept[rows]), column_axis, titles, cells, sweep.options.tile)


def moment_labels(grid: list[Run]) -> dict[str, int | None]:
    """The steps, or fractions if the runs differ in length. Moments of a short run may coincide in one column."""
    steps = {(*runs.moments(run.config), run.config.steps) for run in grid}
    labels = map(str, steps.pop()) if len(steps) == 1 else ["start", "33 %", "67 %", "end"]
    return dict(zip(labels, [0, 1, 2, None], strict=True))


def pictures(sweep: Sweep, run: Run, moment: int | None) -> list:
    """What the figure shows of a run at a moment (None: the end): picture files, one list per prompt, or texts
    instead."""
    home, particles = runs.run_folder(sweep.folder, run.name), run.config.particles
    if home is None:
        return [runs.WAITING]
    start = "final" if moment is None else runs.moment_name(runs.moments(run.config)[moment])
    shown, prompts = range(min(sweep.options.show, particles)), range(len(run.config.prompt))
    files = [[home / f"{start}_{prompt * particles + i:02d}.png" for i in shown] for prompt in prompts]
    if all(path.is_file() for line in files for path in line):
        return files
    return [runs.FAILED, runs.run_result(sweep.folder, run.name).get("error") or ""]


def preview(sweep: Sweep) -> list[str]:
    """What --list and --dry-run print."""
    if sweep.options.list:
        return [shlex.join(["python", "sds2d.py", *run.arguments]) for run in sweep.runs]
    seconds = [runs.run_result(sweep.folder, run.name).get("seconds") for run in sweep.runs]
    known = [value for value in seconds if value]
    left = sum(runs.status(sweep.folder, run.name) != runs.FINISHED for run in sweep.runs)
    about = f", about {left * sum(known) / len(known) / 60:.0f} min if run one at a time" if known else ""
    return [f"{left} of {len(sweep.runs)} runs are left{about}"]


def main():
    sweep = None
    try:
        sweep = plan(sys.argv[1:])
        if sweep.options.list or sweep.options.dry_run:
            print("\n".join(preview(sweep)))
            sys.exit()
        execute_all(sweep)
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error)
        if line is None:
            raise
        if code > 128 and sweep and (sweep.folder / "sweep.json").is_file():
            again = sweep.command if sweep.options.out else [*sweep.command, "--out", str(sweep.folder)]
            line = f"stopped; {sweep.summary()}; python sweep.py {shlex.join(again)} continues"
        print(f"sweep.py: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)
    print(f"{sweep.folder}/figure.png\n{sweep.summary()}")
    sys.exit(any(runs.status(sweep.folder, run.name) != runs.FINISHED for run in sweep.chosen()))


if __name__ == "__main__":
    main()
