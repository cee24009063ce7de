"""A grid of runs, and the labelled figure that compares them: the flags of sds2d.py, any of them with several values.

    python sweep.py --algo.name sds vsd ism --algo.guidance-scale 7.5 15 30 60 120
    python sweep.py --prompt "a red apple" --prompt "a snowman" --seed 0 1 2
    python sweep.py --algo.guidance-scale 7.5 30 120

Every combination is run. Two swept flags are the figure's rows and columns; one stands against the steps; further ones make a
table each. A flag that takes several words by itself, like --prompt, is swept by giving it again. The same command with
--out DIR goes on with a sweep that was stopped, and tries again what failed.

`python sds2d.py --help` lists the flags of the runs.
"""

import contextlib
import itertools
import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from errors import InputError
from priors.checkpoint import read_json
from recording.files import held, write, write_text
from settings import parse
from settings.flags import read
from sweeps.flags import combine, split
from sweeps.runs import FAILED, FINISHED, WAITING, execute, moment_file, moments, place, report, shared_prior, status

MOMENTS = "moments"


@dataclass
class Options:
    out: str | None = None
    """Folder of the sweep, new or the sweep's own. None: outputs/<time>-sweep-<swept flags>."""
    rows: str | None = None
    """The swept flag whose values are the figure's rows, as in algo.name. None: the first."""
    columns: str | None = None
    """The swept flag whose values are the columns, or `moments`, the run along its steps. None: the second, else moments."""
    show: int = 4
    """Most particles of a prompt that the figure shows."""
    tile: int = 128
    """About how wide the figure shows a picture, in pixels; it is enlarged or reduced by a whole factor."""
    ray: str | None = None
    """`local`, or the ADDRESS of a Ray cluster whose machines share this folder and DIR: several runs at once, with the same
    results as without, a card a run where there are cards. On CPUs a run takes as many cores as without Ray:
    OMP_NUM_THREADS=1 makes it one."""
    ray_workers: int | None = None
    """Runs at once on Ray. None: as many as the cards, or else the cores, are enough for."""


# ---------------------------------------------------------------------------------------------------------- beforehand


def plan(arguments):
    """Command line → (options, folder, {swept flag: [text, …]}, runs). Everything is checked, nothing is written or computed.

    Raises InputError: one run that sds2d.py would refuse is reason enough, since all of them were asked for.
    """
    words, given = split(arguments, Options)
    options = read(words, Options, __doc__)
    swept, runs = combine(given)
    for name in ("show", "tile", "ray_workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} {value}: at least 1 is needed")
    if options.ray_workers and not options.ray:
        raise InputError("--ray-workers is for --ray")
    axes(options, swept)
    flags = "-".join(flag.removeprefix("--") for flag in swept)
    folder = Path(options.out or f"outputs/{time.strftime('%Y%m%d-%H%M%S')}-sweep-{flags[:60]}")
    there = os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))
    if there and not (folder / "sweep.json").is_file():
        raise InputError(f"--out {folder} exists and holds no sweep; name a folder that does not")
    for run in runs:
        try:
            # sds2d.py takes no folder that exists.
            run.config = parse([*run.arguments, "--out", str(folder / "none" if os.path.lexists(folder) else folder)])
        except InputError as error:
            values = " ".join(f"{flag} {text}" for flag, text in run.values.items())
            raise InputError(f"{error} (the run with {values})") from error
    if there:
        asked, made = contents(runs), read_json(folder / "sweep.json")
        if asked != made.get("runs"):
            command = shlex.join(made.get("command", []))
            raise InputError(f"--out {folder} holds another sweep ({command}); name a folder that does not exist")
    return options, folder, swept, runs


def contents(runs):
    """{name: settings as resolved} of the runs, as JSON has it: what makes a sweep the same sweep, wherever its folder lies."""
    return {run.name: {**json.loads(json.dumps(asdict(run.config))), "out": None} for run in runs}


def axes(options, swept):
    """(flag of the rows, flag of the columns or MOMENTS, [the other swept flags]). Raises InputError for what is not swept."""

    def chosen(name, also=()):
        flag = name if name in also else f"--{name.strip().lstrip('-').replace('_', '-')}"
        if flag not in (*swept, *also):
            flags = ", ".join(flag.removeprefix("--") for flag in swept)
            raise InputError(f"--rows and --columns take what is swept, here {', '.join((flags, *also))}; not {name}")
        return flag

    columns = options.columns and chosen(options.columns, [MOMENTS])
    rows = chosen(options.rows) if options.rows else next((flag for flag in swept if flag != columns), None)
    columns = columns or next((flag for flag in swept if flag != rows), MOMENTS)
    if rows in (None, columns):
        raise InputError("--rows and --columns need two different flags; one that is swept alone is the rows")
    return rows, columns, [flag for flag in swept if flag not in (rows, columns)]


def by_prior(runs):
    """The runs in their order, but all of one prior before those of the next, so that each is loaded once."""
    priors = [asdict(run.config.prior) for run in runs]
    return [runs[i] for i in sorted(range(len(runs)), key=lambda i: priors.index(priors[i]))]


# ------------------------------------------------------------------------------------------------------------- the runs


def in_turn(folder, runs):
    """Executes the runs in this process; yields each as it ends."""
    for number, run in enumerate(runs, 1):
        print(f"[{number}/{len(runs)}] {titled(run.values.items())}", file=sys.stderr)
        execute(folder, run.name, run.arguments)
        yield run


def conduct(options, folder, swept, runs, command):
    """Executes what is not finished, and keeps the figure, the page and the table as they stand after each run."""
    pending = by_prior([run for run in runs if status(folder, run.name) != FINISHED])
    with contextlib.ExitStack() as stack:
        if options.ray and pending:
            from sweeps.cluster import connected, on_ray

            stack.enter_context(connected(options.ray, options.ray_workers))
            ends = on_ray(folder, pending, options.ray_workers)
        else:
            # A prior that all runs share and that can't be loaded is bad input, not a failure of each.
            if pending and pending[0].config.prior == pending[-1].config.prior:
                shared_prior(pending[0].config.prior)
            ends = in_turn(folder, pending)
        try:
            (folder / "unfinished").mkdir(parents=True, exist_ok=True)
            text = json.dumps({"command": command, "runs": contents(runs)}, indent=1, ensure_ascii=False)
            write_text(folder / "sweep.json", text)
        except OSError as error:
            raise InputError(f"--out {folder} can not be written: {error.strerror}") from error
        stack.enter_context(held(folder))
        show(options, folder, swept, runs, command)
        for number, run in enumerate(ends, 1):
            if status(folder, run.name) == FAILED:
                print(f"{run.name} failed: {report(folder, run.name).get('error')}", file=sys.stderr)
            elif options.ray:  # In this process a run has a bar of its own.
                print(f"[{number}/{len(pending)}] {titled(run.values.items())}: finished", file=sys.stderr)
            show(options, folder, swept, runs, command)
    shutil.rmtree(folder / "unfinished")


# ----------------------------------------------------------------------------------------------------------- the results


def show(options, folder, swept, runs, command):
    from sweeps.tables import results, save_csv, save_page

    rows = results(folder, runs)
    save_csv(folder / "results.csv", rows)
    sheet = figure(options, folder, swept, runs)
    write(folder / "figure.png", lambda beside: sheet.save(beside, optimize=True))
    write(folder / "figure.jpg", lambda beside: sheet.convert("RGB").save(beside, quality=85))
    save_page(folder / "index.html", runs, rows, command, summary(folder, runs))


def summary(folder, runs):
    counts = Counter(status(folder, run.name) for run in runs)
    return f"{len(runs)} runs: " + ", ".join(
        f"{counts[word]} {word}" for word in (FINISHED, FAILED, WAITING) if counts[word]
    )


def figure(options, folder, swept, runs):
    """The Pillow image of rows and columns; swept flags beyond two make a table for each of their combinations."""
    from sweeps.figure import Axis, draw

    rows, columns, others = axes(options, swept)
    found = {frozenset(run.values.items()): run for run in runs}
    tables = list(itertools.product(*([(flag, text) for text in swept[flag]] for flag in others)))
    along = columns == MOMENTS
    shown = when(runs) if along else dict.fromkeys(swept[columns])

    def cell(table, row, column):
        label, moment = list(shown.items())[column]
        values = [*tables[table], (rows, swept[rows][row])]
        return pictures(
            folder, found[frozenset(values if along else [*values, (columns, label)])], options.show, moment
        )

    name = "steps" if along else columns.removeprefix("--")
    titles = [titled(table) for table in tables]
    return draw(Axis(rows.removeprefix("--"), swept[rows]), Axis(name, list(shown)), titles, cell, options.tile)


def titled(values):
    return "   ".join(f"{flag.removeprefix('--')} {text}" for flag, text in values)


def when(runs):
    """{label of a column: which of the moments it shows, None for the end}: steps, or parts of runs whose steps differ."""
    steps = {(*moments(run.config), run.config.steps) for run in runs}
    labels = map(str, steps.pop()) if len(steps) == 1 else ["start", "20 %", "40 %", "60 %", "80 %", "end"]
    return dict(zip(labels, [0, 1, 2, 3, 4, None], strict=True))  # A short run's moments may coincide: one column.


def pictures(folder, run, most, moment=None):
    """What the figure shows of a run at one of its moments, None for the end: picture files, a list a prompt, or texts."""
    home, particles = place(folder, run.name), run.config.particles
    if home is None:
        return [WAITING]

    def file(particle):
        if moment is None:
            return home / f"final_{particle:02d}.png"
        return moment_file(home, moments(run.config)[moment], particle)

    first = range(0, len(run.config.prompt) * particles, particles)
    files = [[file(p + i) for i in range(min(most, particles))] for p in first]
    if all(path.is_file() for line in files for path in line):
        return files
    return [FAILED, report(folder, run.name).get("error") or ""]


def main():
    command, folder, runs = sys.argv[1:], None, []
    try:
        options, folder, swept, runs = plan(command)
        conduct(options, folder, swept, runs, command)
    except InputError as error:
        print(f"sweep.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"sweep.py: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as error:
        if folder and (folder / "sweep.json").is_file():
            again = command if options.out else [*command, "--out", str(folder)]
            print(
                f"\nsweep.py: stopped; {summary(folder, runs)}; python sweep.py {shlex.join(again)} goes on",
                file=sys.stderr,
            )
        sys.exit(128 + getattr(error, "signal", signal.SIGINT))
    print(f"{folder}/figure.png\n{summary(folder, runs)}")
    sys.exit(any(status(folder, run.name) != FINISHED for run in runs))


if __name__ == "__main__":
    main()
