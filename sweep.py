"""Makes many runs, or takes runs that exist, and compares them: a labelled figure, a page and a table.

    python sweep.py --algo.name sds vsd ism --algo.guidance-scale 7.5 15 30 60 120
    python sweep.py --prompt "a red apple" --prompt "a snowman" --seed 0 1 2
    python sweep.py --algo.guidance-scale 7.5 30 120
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
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from PIL import Image
from pydantic import PositiveInt
from safetensors.torch import load_file

import sds2d
from config.command_line import parse, parse_resume, read_options
from config.files import load
from config.settings import Config, flatten, settings_in
from errors import InputError, explain, require
from priors.checkpoint import read_json, user_path
from priors.prior import Prior, PriorConfig
from recording.figure import Axis, Content, content, draw
from recording.folder import FolderInUse, lock_folder, write_atomic, write_csv, write_error, write_text
from recording.page import FAILED, FINISHED, NOT_RUN, UNFINISHED, comparison, read_run, render, time_left
from recording.processes import in_processes, require_no_gpu_number

MOMENTS = "moments"


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

    def contents(self) -> dict:
        """{run name: its settings, or where it is}, which identify the sweep."""
        if self.options.runs:
            return {run.name: str(run.folder.absolute()) for run in self.runs}
        settings = {run.name: {**run.settings, "out": None, "command": None} for run in self.runs}
        return json.loads(json.dumps(settings))

    def statuses(self) -> list[str]:
        return [read_run(run.folder)["status"] for run in self.runs]


def plan(arguments: list[str]) -> Sweep:
    """Checks everything, including the settings of all runs; writes nothing. Raises InputError."""
    options, rest = read_options(Options, arguments, __doc__)
    file = user_path(options.out) / "sweep.json" if options.out else None
    stored = read_json(file) if file and file.is_file() else {}
    redraw = bool(stored) and not rest and not options.runs
    if redraw:
        arguments = [*stored.get("command", []), *arguments]
        options, rest = read_options(Options, arguments, __doc__)
    if options.runs:
        require(not rest, f"{' '.join(rest)}: --runs compares runs that exist, and makes none")
        runs = existing_runs(options)
        swept = {"run": [run.name for run in runs]}
    else:
        swept, runs = make_runs(read_grid(rest))
        for label in options.labels:
            require("=" in label, f"--labels {label}: must be OLD=NEW")
    axes(options, swept)
    package = importlib.util.find_spec("submitit") or not options.slurm
    require(package, "--slurm needs submitit: pip install submitit")
    name = "comparison" if options.runs else f"sweep-{'-'.join(swept)[:60]}"
    folder = user_path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-{name}")
    for run in [] if options.runs else runs:
        run.folder = folder / run.name
        if redraw and run.name in stored["runs"]:
            run.settings = stored["runs"][run.name]
            continue
        try:
            run.settings = flatten(parse(run.arguments))
        except InputError as error:
            raise InputError(f"{error} (in the run with {title(run.values.items())})") from error
    command = [word for word in arguments if word != "--list"]
    sweep = Sweep(options, folder, swept, runs, command, redraw)
    if not redraw and os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        require(stored, f"--out {folder} exists but has no sweep in it; choose another folder")
        same = sweep.contents() == stored.get("runs")
        other = shlex.join(stored.get("command", []))
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


# ------------------------------------------------------------------------------------------------------------- the grid


def title(values: Iterable[tuple[str, str]]) -> str:
    """Settings and their values, as the figure and the page name a run."""
    return "   ".join(f"{name} {text}" for name, text in values)


def types(cls: type, prefix: str = "") -> dict[str, Any]:
    """{dotted name: type} of every setting of nested dataclasses."""
    hints = {}
    for name, hint in get_type_hints(cls).items():
        hints |= types(hint, f"{prefix}{name}.") if is_dataclass(hint) else {prefix + name: hint}
    return hints


def read_grid(arguments: list[str]) -> dict[str, dict[str, list[str]]]:
    """{setting, such as algo.name: {value as shown in labels: its arguments on a command line}}.

    Each argument after a flag is a value, also when the flag is repeated. If the flag itself takes several arguments,
    like --prompt, they are one value, and only repeating the flag adds another.
    """
    given, grid, hints = [], {}, types(Config)
    for word in arguments:
        if word.startswith("--"):
            flag, equals, first = word.partition("=")
            given.append((flag, [first] if equals else []))
        else:
            require(given, f"{word!r} must follow a flag (see --help)")
            given[-1][1].append(word)
    for flag, words in given:
        (setting,) = settings_in([flag])  # also schedule.shared_t for --schedule.no-shared-t
        hint = hints.get(setting, tuple)  # sds2d.py refuses unknown flags.
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
    require(len(folders) > 1, "--runs needs two or more run folders")
    for folder in folders:
        require((folder / "config.yaml").is_file(), f"--runs {folder} is not a run folder: it has no config.yaml")
    names = [folder.absolute().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    names = options.labels or names
    different = len(names) == len(folders) == len(set(names))
    require(different, f"--runs and --labels need {len(folders)} different runs and labels, a label for each run")
    runs = zip(names, folders, strict=True)
    return [Run(name, {"run": name}, [], folder, load(folder / "config.yaml")) for name, folder in runs]


def differences(runs: list[Run]) -> dict[str, dict[str, str]]:
    """{run name: {setting: text}} for the settings in which the runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    names = [name for name in names if any(run.settings.get(name) != runs[0].settings.get(name) for run in runs)]

    def text(value):
        return " · ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)

    shown = [name for name in names if name not in ("command", "environment", "quiet")]
    return {run.name: {name.replace("_", "-"): text(run.settings.get(name)) for name in shown} for run in runs}


# ------------------------------------------------------------------------------------------------------------- the runs

_loaded = {}


def shared_prior(config: PriorConfig) -> Prior:
    """The prior of this process; the last one is cached, and freed before another is loaded."""
    key = astuple(config)
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = Prior(config)
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
    except FolderInUse:
        pass  # Another process is at it.
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FolderInUse), lock_folder(folder):
            write_error(folder, error)


def execute_all(sweep: Sweep) -> None:
    """Executes the unfinished runs, and updates the figure, the page and the table after each."""
    options = sweep.options

    def prior_of(run):
        return [value for name, value in run.settings.items() if name.startswith("prior.")]

    pending = [run for run in sweep.runs if read_run(run.folder)["status"] != FINISHED]
    priors = [prior_of(run) for run in pending]
    pending.sort(key=lambda run: priors.index(prior_of(run)))  # so that each prior is loaded once
    require_no_gpu_number((run.settings["prior.device"] for run in pending), options.jobs or 1)
    if pending and not options.jobs and not options.slurm and all(prior == priors[0] for prior in priors):
        shared_prior(parse(pending[0].arguments).prior)  # If it cannot be loaded, stop instead of failing every run.
    calls = [(run.folder, run.arguments) for run in pending]
    if options.slurm:
        ends = in_slurm(calls, options.slurm, sweep.folder)
    else:
        ends = in_processes(execute, calls, min(options.jobs or 1, len(pending)), torch.get_num_threads())
    record(sweep)
    with lock_folder(sweep.folder):
        try:
            if pending:
                show(sweep, "")
            start = time.perf_counter()
            for number, index in enumerate(ends, 1):
                run, result = pending[index], read_run(pending[index].folder)
                reason = f": {result['error']}" if result["error"] else ""
                line = f"[{number}/{len(pending)}] {title(run.values.items())} {result['status']}{reason}"
                print(line, file=sys.stderr)
                if rest := len(pending) - number:
                    show(sweep, time_left((time.perf_counter() - start) / number * rest))
        finally:  # also if it is stopped
            show(sweep)


def in_slurm(calls: list[tuple], options: tuple[str, ...], folder: Path) -> Iterator[int]:
    """Hands execute(*call) to Slurm for each call, and waits for them → the index of each call as its job ends.

    options: of sbatch, as NAME=VALUE; cluster=local starts the jobs on this machine instead. A job that is preempted or
    runs out of time is queued again, and then continues its run. Raises InputError.
    """
    import submitit  # optional

    class Job(submitit.helpers.Checkpointable):  # which is queued again with the same arguments
        def __call__(self, *call):
            execute(*call)

    settings = dict(option.partition("=")[::2] for option in options)
    minutes = settings.pop("time", "60")
    require(
        minutes.isdecimal() and all(settings.values()),
        f"--slurm {' '.join(options)}: must be NAME=VALUE …, such "
        "as partition=gpu time=60 gpus=1, with the time in minutes",
    )
    try:
        cluster = settings.pop("cluster", "slurm")
        executor = submitit.AutoExecutor(folder / "slurm", cluster, slurm_max_num_timeout=1000)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--slurm: {error}") from error
    executor.update_parameters(timeout_min=int(minutes), slurm_additional_parameters=settings)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # The jobs inherit it.

    def ends():
        with executor.batch():
            jobs = [executor.submit(Job(), *call) for call in calls]
        for job in submitit.helpers.as_completed(jobs, poll_frequency=2):
            yield jobs.index(job)

    return ends()


def record(sweep: Sweep) -> None:
    """Writes sweep.json, from which --out DIR alone draws the sweep."""
    try:
        sweep.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"command": sweep.command, "runs": sweep.contents()}, indent=1, ensure_ascii=False)
        write_text(sweep.folder / "sweep.json", text)
    except OSError as error:
        raise InputError(f"--out {sweep.folder} cannot be written: {error.strerror}") from error


def print_commands(sweep: Sweep) -> None:
    """Prints the commands that are left to run; a run that was stopped is resumed."""
    statuses = sweep.statuses()
    for run, status in zip(sweep.runs, statuses, strict=True):
        if status == NOT_RUN:
            print(shlex.join(["python", "sds2d.py", *run.arguments, "--out", str(run.folder)]))
        elif status == UNFINISHED:
            print(shlex.join(["python", "sds2d.py", "--resume", str(run.folder)]))
    if FAILED in statuses:
        print(f"{summary(statuses)}; without --list, failed runs are retried", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------- the results


def show(sweep: Sweep, left: str | None = None) -> None:
    """Writes the table, the figure and the page of the runs so far. left: the time left, as text; None: the sweep is
    over."""
    folder, options = sweep.folder, sweep.options
    data = comparison({run.name: run.folder for run in sweep.runs}, folder / "index.html")
    values = differences(sweep.runs) if options.runs else {run.name: run.values for run in sweep.runs}
    rows = []
    for index, (run, part) in enumerate(zip(sweep.runs, data["runs"], strict=True)):
        part["values"] = values[run.name]
        numbers = {name: part[name] for name in ("status", "seconds", "grad_norm", "clip_score", "error")}
        place = os.path.relpath(run.folder, folder)
        rows.append(
            {"run": run.name, **part["values"], **numbers, "warnings": "; ".join(part["warnings"]), "folder": place}
        )
    write_csv(folder / "results.csv", rows)
    picture = figure(sweep, data["runs"])
    for kind in ("png", "jpg", "pdf"):
        write_atomic(folder / f"figure.{kind}", picture.savefig)
    text = render(
        data,
        heading=folder.absolute().name,
        summary=summary(part["status"] for part in data["runs"]),
        progress=left,
        picture="figure.png",
        links=["results.csv", "figure.pdf"],
        command=shlex.join(["python", "sweep.py", *sweep.command]),
    )
    write_text(folder / "index.html", text)


def summary(statuses: Iterable[str]) -> str:
    """The statuses of all runs, in a line."""
    counts = Counter(statuses)
    words = [f"{counts[status]} {status}" for status in (FINISHED, FAILED, UNFINISHED, NOT_RUN) if counts[status]]
    return f"{counts.total()} runs: {', '.join(words)}"


def figure(sweep: Sweep, parts: list[dict[str, Any]]):
    """The matplotlib Figure of rows and columns, with a table for each combination of the other swept settings. parts:
    read_run() of each run."""
    rows, columns, others = axes(sweep.options, sweep.swept)
    # {column label: the moment that it shows; None: the end}
    heads = moment_labels(sweep.runs) if columns == MOMENTS else dict.fromkeys(sweep.swept[columns])
    tables = list(itertools.product(*([(name, text) for text in sweep.swept[name]] for name in others)))
    by_values = {frozenset(run.values.items()): (run, part) for run, part in zip(sweep.runs, parts, strict=True)}
    cells = {}
    for (i, table), (j, row), (k, head) in itertools.product(*map(enumerate, (tables, sweep.swept[rows], heads))):
        along = [] if columns == MOMENTS else [(columns, head)]
        cells[i, j, k] = cell(sweep.options, *by_values[frozenset([*table, (rows, row), *along])], heads[head])
    names = {} if sweep.options.runs else dict(label.split("=", 1) for label in sweep.options.labels)

    def axis(name, texts):
        return Axis(names.get(name, name), [names.get(text, text) for text in texts])

    titles = [title([(names.get(name, name), names.get(text, text)) for name, text in table]) for table in tables]
    column_axis = axis("steps" if columns == MOMENTS else columns, heads)
    return draw(axis(rows, sweep.swept[rows]), column_axis, titles, cells, sweep.options.tile)


def moments(settings: dict[str, Any]) -> list[int]:
    """The steps of a run that a figure shows besides the end: the recorded ones closest to each third of the run."""
    recorded = range(0, settings["steps"], settings["log.every"])
    return [min(recorded, key=lambda step: abs(3 * step - part * settings["steps"])) for part in range(3)]


def moment_labels(runs: list[Run]) -> dict[str, int | None]:
    """The steps, or fractions if the runs differ in length. Moments of a short run may coincide in one column."""
    steps = {(*moments(run.settings), run.settings["steps"]) for run in runs}
    labels = map(str, steps.pop()) if len(steps) == 1 else ["start", "33 %", "67 %", "end"]
    return dict(zip(labels, [0, 1, 2, None], strict=True))


def cell(options: Options, run: Run, part: dict[str, Any], moment: int | None) -> Content:
    """What the figure shows of a run at a moment (None: the end): its pictures or, without any, its status."""
    particles, prompts = run.settings["particles"], len(run.settings["prompt"])
    if moment is None:
        files = [run.folder / f"final_{index:02d}.png" for index in range(prompts * particles)]
        pictures = [Image.open(file).convert("RGB") for file in files] if part["status"] == FINISHED else []
    else:
        file = run.folder / "images" / f"step_{moments(run.settings)[moment]:06d}.safetensors"
        arrays = load_file(file)["images"].numpy() if file.is_file() else []
        pictures = [Image.fromarray(array) for array in arrays]
    if not pictures:
        return [part["status"], part["error"] or ""]
    shown = min(options.show, particles)
    rows = [pictures[prompt * particles :][:shown] for prompt in range(prompts)]
    return content(rows, options.tile)


def main():
    sweep = None
    try:
        sweep = plan(sys.argv[1:])
        if sweep.options.list:
            record(sweep)
            print_commands(sweep)
            return
        if sweep.redraw:
            show(sweep)
        elif sweep.options.runs:
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
            line = f"stopped; {summary(sweep.statuses())}; python sweep.py {shlex.join(again)} continues"
        print(f"sweep.py: {' '.join(line.split())}", file=sys.stderr)
        sys.exit(code)
    statuses = sweep.statuses()
    print(f"{sweep.folder}/figure.png\n{summary(statuses)}")
    only_drawn = sweep.redraw or sweep.options.runs
    sys.exit(0 if only_drawn or set(statuses) == {FINISHED} else 1)


if __name__ == "__main__":
    main()
