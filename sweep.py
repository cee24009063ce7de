"""Makes many runs, or takes runs that exist, and compares them: a labelled figure, a page and a table.

    python sweep.py --algo.name sds vsd ism --algo.guidance-scale 7.5 15 30 60 120
    python sweep.py --prompt "a red apple" --prompt "a snowman" --seed 0 1 2
    python sweep.py --runs outputs/FIRST outputs/SECOND --labels before after

Any flag of sds2d.py can have several values, and every combination is run. Two swept flags become the figure's rows and
columns; a single one is shown against the steps; each combination of further ones gets its own table. A flag that
itself takes several values, like --prompt, is swept by repeating it. The same command with --out DIR continues a
stopped sweep and retries failed runs; --out DIR without swept flags draws what is there, also with other --rows,
--columns, --tile, --show or --labels.

`python sds2d.py --help` lists the flags of the runs.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin

import torch
from pydantic import PositiveInt

import sds2d
from config import SETTINGS, flatten, load, parse, parse_resume, read_options, settings_in
from errors import InputError, explain, require
from priors.checkpoint import Checkpoint, PriorConfig
from priors.files import read_json, user_path
from recording.figure import axes, figure, title
from recording.folder import FolderInUse, lock_folder, write_atomic, write_csv, write_error, write_text
from recording.page import FINISHED, NOT_RUN, PAGE, UNFINISHED, comparison, differences, read_run, time_left
from recording.processes import in_processes, in_slurm, require_no_gpu_number


@dataclass
class Options:
    out: str | None = None
    """Folder of the sweep, new or of the sweep to continue. None: outputs/<time>-sweep-<swept flags>."""
    runs: tuple[str, ...] = ()
    """Folders of two or more runs that exist, to compare instead of making new ones."""
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
    """New names for settings or values in the figure, each OLD=NEW, such as algo.guidance-scale=CFG sds=SDS. With
    --runs: a name for each run. By default, their folders' names."""
    list: bool = False
    """Print the command of each run that is not finished, and run nothing."""
    jobs: PositiveInt | None = None
    """Number of parallel runs, each in its own process, spread over the GPUs if any. None: one, in this process."""
    slurm: tuple[str, ...] = ()
    """Hand each run to Slurm, with these options of sbatch, such as partition=gpu time=60 gpus=1; the time is in
    minutes. Needs `pip install submitit`."""


@dataclass
class Run:
    """One run. values: {swept setting: text}; arguments: of sds2d.py, without --out; settings: {dotted name: value}."""

    name: str
    values: dict[str, str]
    arguments: list[str]
    folder: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sweep:
    """swept: {setting: its values}, outermost loop first; runs: in that order; command: the arguments given; redraw:
    whether only to draw what is in the folder."""

    options: Options
    folder: Path
    swept: dict[str, list[str]]
    runs: list[Run]
    command: list[str]
    redraw: bool

    def summary(self) -> str:
        """The number of runs with each status."""
        counts = Counter(read_run(run.folder)["status"] for run in self.runs)
        return f"{len(self.runs)} runs: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def plan(arguments: list[str]) -> Sweep:
    """Checks everything, including the settings of all runs; writes nothing. Raises InputError."""
    options, flags = read_options(Options, arguments, __doc__)
    folder = user_path(options.out) if options.out else None
    file = folder and folder / "sweep.json"
    made = read_json(file).get("command", []) if file and file.is_file() else []
    redraw = bool(made) and not flags and not options.runs
    if redraw:
        arguments = [*made, *arguments]
        options, flags = read_options(Options, arguments, __doc__)
    elif folder and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        before, before_flags = read_options(Options, made)
        same = made and (before.runs, before_flags) == (options.runs, flags)
        other = f"another sweep in it ({shlex.join(made)})" if made else "no sweep in it"
        require(same, f"--out {folder} exists and has {other}; choose another folder")
    if options.runs:
        require(not flags, f"{' '.join(flags)}: --runs compares runs that exist, and makes none")
        runs = existing_runs(options)
        swept = {"run": [run.name for run in runs]}
    else:
        swept, runs = make_runs(read_grid(flags))
    name = "comparison" if options.runs else f"sweep-{'-'.join(swept)[:60]}"
    folder = folder or user_path(f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    for run in [] if options.runs else runs:
        run.folder = folder / run.name
        try:
            run.settings = flatten(parse(run.arguments))
        except InputError as error:
            raise InputError(f"{error} (in the run with {title(run.values.items())})") from error
    for pair in (*options.slurm, *([] if options.runs else options.labels)):
        require("=" in pair, f"{pair}: --labels must be OLD=NEW, and --slurm NAME=VALUE")
    axes(options.rows, options.columns, swept)
    there = redraw or not options.slurm or importlib.util.find_spec("submitit")
    require(there, "--slurm needs submitit: pip install submitit")
    command = [word for word in arguments if word != "--list"] if not redraw else made
    return Sweep(options, folder, swept, runs, command, redraw)


# ------------------------------------------------------------------------------------------------------------- the grid


def read_grid(arguments: list[str]) -> dict[str, dict[str, list[str]]]:
    """{setting, such as algo.name: {value as shown in labels: its arguments on a command line}}.

    Each argument after a flag is a value, also when the flag is repeated. If the flag itself takes several arguments,
    like --prompt, they are one value, and only repeating the flag adds another.
    """
    given, grid = [], {}
    for word in arguments:
        if word.startswith("--"):
            flag, equals, first = word.partition("=")
            given.append((flag, [first] if equals else []))
        else:
            require(given, f"{word!r} must follow a flag (see --help)")
            given[-1][1].append(word)
    for flag, words in given:
        (setting,) = settings_in([flag])  # also schedule.shared_t for --schedule.no-shared-t
        hint = SETTINGS[setting].type if setting in SETTINGS else tuple  # sds2d.py refuses unknown flags.
        one_value = tuple in (hint, *map(get_origin, (hint, *get_args(hint)))) or len(words) < 2
        values = grid.setdefault(setting.replace("_", "-"), {})
        for value in [words] if one_value else [[word] for word in words]:
            text = " · ".join(value) or "''"
            if hint is bool:
                text = "no" if "no-" in flag.replace("_", "-") else "yes"
            require(text not in values, f"{flag} {text} is given twice; the values of a sweep must differ")
            dash = value and value[0].startswith("-")  # which would look like a flag
            values[text] = [f"{flag}={value[0]}", *value[1:]] if dash else [flag, *value]
    return grid


def make_runs(grid: dict[str, dict[str, list[str]]]) -> tuple[dict[str, list[str]], list[Run]]:
    """→ ({swept setting: its values' texts}, the runs), with the last swept setting varying fastest."""
    swept = {name: list(values) for name, values in grid.items() if len(values) > 1}
    require(swept, "nothing is swept: give a flag several values, as in --algo.name sds vsd, or use sds2d.py")
    combinations, runs = list(itertools.product(*(values.items() for values in grid.values()))), []
    for index, values in enumerate(combinations):
        texts = {name: text for name, (text, _) in zip(grid, values, strict=True) if name in swept}
        number = str(index).zfill(len(str(len(combinations) - 1)))
        slugs = [re.sub(r"[^a-z0-9.]+", "-", text.lower())[: 60 // len(texts)].strip("-.") for text in texts.values()]
        name = "-".join(filter(None, (number, *slugs)))
        runs.append(Run(name, texts, [word for _, words in values for word in words]))
    return swept, runs


def existing_runs(options: Options) -> list[Run]:
    """The runs of --runs, each under its label."""
    folders = [user_path(folder) for folder in options.runs]
    for folder in folders:
        require((folder / "config.yaml").is_file(), f"--runs {folder} is not a run folder: it has no config.yaml")
    names = options.labels or [folder.absolute().name for folder in folders]
    different = len(folders) == len(names) == len(set(names)) > 1
    require(different, "--runs needs two or more runs, each with another name; --labels can give them")
    runs = zip(names, folders, strict=True)
    return [Run(name, {"run": name}, [], folder, load(folder / "config.yaml")) for name, folder in runs]


# ------------------------------------------------------------------------------------------------------------- the runs

_loaded = {}


def shared_prior(config: PriorConfig) -> Checkpoint:
    """The prior of this process; the last one is cached, and freed before another is loaded."""
    key = astuple(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = Checkpoint(config)
    return _loaded[key]


def execute(folder: Path, arguments: list[str]) -> None:
    """Runs sds2d.py with these arguments in this process. A run that was stopped is continued, and one that failed is
    made anew. A failure ends only the run: the reason is in its error.txt."""
    status = read_run(folder)["status"]
    if status == FINISHED:  # meanwhile, by another process
        return
    resume = status == UNFINISHED
    try:
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        config = parse_resume(["--resume", str(folder)]) if resume else parse([*arguments, "--out", str(folder)])
        sds2d.run(config, shared_prior(config.prior), resume=resume)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FolderInUse), lock_folder(folder):  # Another process may be at the same run.
            write_error(folder, error)


def execute_all(sweep: Sweep) -> None:
    """Executes the runs that are not finished, and updates the figure, the page and the table after each."""

    def prior(run):
        return str({name: value for name, value in run.settings.items() if name.startswith("prior.")})

    options = sweep.options
    pending = [run for run in sweep.runs if read_run(run.folder)["status"] != FINISHED]
    pending.sort(key=prior)  # so that each prior is loaded once
    require_no_gpu_number((run.settings["prior.device"] for run in pending), options.jobs or 1)
    if len(set(map(prior, pending))) == 1 and not options.jobs and not options.slurm:
        shared_prior(parse(pending[0].arguments).prior)  # If it cannot be loaded, stop instead of failing every run.
    calls = [(run.folder, run.arguments) for run in pending]
    if options.slurm:
        ends = in_slurm(execute, calls, options.slurm, sweep.folder / "slurm")
    else:
        ends = in_processes(execute, calls, min(options.jobs or 1, len(pending)), torch.get_num_threads())
    record(sweep)
    with lock_folder(sweep.folder), contextlib.ExitStack() as stack:
        stack.callback(show, sweep)  # at the end, also if it is stopped
        if pending:
            show(sweep, "")
        start = time.perf_counter()
        for number, index in enumerate(ends, 1):
            run, result = pending[index], read_run(pending[index].folder)
            reason = f": {result['error']}" if result["error"] else ""
            line = f"[{number}/{len(pending)}] {title(run.values.items())} {result['status']}{reason}"
            print(line, file=sys.stderr)
            if left := len(pending) - number:
                show(sweep, time_left((time.perf_counter() - start) / number * left))


def record(sweep: Sweep) -> None:
    """Writes sweep.json, from which --out DIR alone draws the sweep."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        write_text(sweep.folder / "sweep.json", json.dumps({"command": sweep.command}, ensure_ascii=False))
    except OSError as error:
        raise InputError(f"--out {sweep.folder} cannot be written: {error.strerror}") from error


def print_commands(sweep: Sweep) -> None:
    """Prints the commands that are left to run; a run that was stopped is resumed."""
    for run in sweep.runs:
        status = read_run(run.folder)["status"]
        if status == NOT_RUN:
            print(shlex.join(["python", "sds2d.py", *run.arguments, "--out", str(run.folder)]))
        elif status == UNFINISHED:
            print(shlex.join(["python", "sds2d.py", "--resume", str(run.folder)]))
    print(sweep.summary(), file=sys.stderr)  # Failed ones are not listed.


def show(sweep: Sweep, left: str | None = None) -> None:
    """Writes the table, the figure and the page of the runs so far. left: the time left, as text; None: the sweep is
    over."""
    folder, options = sweep.folder, sweep.options
    data = comparison({run.name: run.folder for run in sweep.runs}, folder / "index.html")
    table = differences([run.settings for run in sweep.runs]) if options.runs else [run.values for run in sweep.runs]
    rows = []
    for part, values in zip(data["runs"], table, strict=True):
        part["values"] = values
        rest = {name: part[name] for name in ("status", "seconds", "grad_norm", "clip_score", "error")}
        rows.append({"run": part["label"], **values, **rest, "warnings": "; ".join(part["warnings"])})
    write_csv(folder / "results.csv", rows)
    names = {} if options.runs else dict(label.split("=", 1) for label in options.labels)
    picture = figure(
        sweep.runs, data["runs"], axes(options.rows, options.columns, sweep.swept), names, options.show, options.tile
    )
    for kind in ("png", "jpg", "pdf"):
        write_atomic(folder / f"figure.{kind}", picture.savefig)
    text = PAGE.render(
        data=data,
        heading=folder.absolute().name,
        summary=sweep.summary(),
        progress=left,
        picture="figure.png",
        links=["results.csv", "figure.pdf"],
        command=shlex.join(["python", "sweep.py", *sweep.command]),
    )
    write_text(folder / "index.html", text)


def main():
    sweep = None
    try:
        sweep = plan(sys.argv[1:])
        if sweep.options.list:
            record(sweep)
            print_commands(sweep)
            return
        if sweep.options.runs or sweep.redraw:
            record(sweep)
            show(sweep)
        else:
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
    if not sweep.redraw and not sweep.options.runs:
        sys.exit(any(read_run(run.folder)["status"] != FINISHED for run in sweep.runs))


if __name__ == "__main__":
    main()
