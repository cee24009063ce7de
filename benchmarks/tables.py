"""A table as Markdown, as a CSV, as a picture, and in the docs."""

import csv
import re
from pathlib import Path

from errors import InputError
from recording.folder import write_atomic, write_text

DOCS = Path(__file__).resolve().parent.parent / "docs" / "BENCHMARKS.md"
PERCENT = ("top1", "top5", "background", "target")
COLORS = {"latent": "#2b5c8a", "pixel": "#b5532a", "gaussian2d": "#3f8f5b"}


def cell(key, summaries, real):
    """A number with its interval, "74 % (68–80)", as the column has it; as a part of the real one where the column
    is relative."""
    if key not in summaries:
        return "-"
    value, low, high = summaries[key]
    if key in PERCENT:
        return f"{100 * value:.0f} % ({100 * low:.0f}–{100 * high:.0f})"
    if key in ("diversity", "saturation"):
        return f"{value / real[key][0]:.2f} ({low / real[key][0]:.2f}–{high / real[key][0]:.2f})"
    digits = {"frechet": 3}.get(key, 1)
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def markdown(summaries, columns, real=None):
    """{row: {column: (number, low, high)}} as Markdown."""
    lines = [f"| {' | '.join(['', *columns.values()])} |", f"| {' | '.join(['---'] * (1 + len(columns)))} |"]
    lines += [
        f"| {row} | {' | '.join(cell(key, values, real) for key in columns)} |" for row, values in summaries.items()
    ]
    return "\n".join(lines)


def write_csv(path, summaries):
    keys = list(dict.fromkeys(key for values in summaries.values() for key in values))
    path.parent.mkdir(parents=True, exist_ok=True)

    def writer(part):
        with open(part, "w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["row", *(f"{key}{end}" for key in keys for end in ("", "_low", "_high"))])
            for row, values in summaries.items():
                numbers = (values.get(key, [None] * 3) for key in keys)
                table.writerow(
                    [row, *("" if number is None else f"{number:.6g}" for three in numbers for number in three)]
                )

    write_atomic(path, writer)


def write_markdown(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text + "\n")


def write_docs(name, text):
    """Puts the text between <!-- NAME --> and <!-- /NAME --> in docs/BENCHMARKS.md. Raises InputError where these
    are missing."""
    old = DOCS.read_text(encoding="utf-8")
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if len(marks.findall(old)) != 1:
        raise InputError(f"{DOCS.name} needs one place marked <!-- {name} --> … <!-- /{name} -->")
    write_text(DOCS, marks.sub(lambda mark: f"{mark[1]}\n{text}\n\n{mark[2]}", old))


def asset(name):
    """Where an asset of the docs lies."""
    return DOCS.parent.parent / "assets" / name


def spread(value, ends, unit):
    """An interval as matplotlib wants it: how far it reaches to both sides."""
    return [[max(0, value - ends[0]) * unit], [max(0, ends[1] - value) * unit]]


def place(axes, labels):
    """Writes each (text, point, color) at the first place near its point where no other text is; the lines may run
    through it."""
    figure, taken = axes.figure, []
    figure.draw_without_rendering()
    for text, point, color in labels:
        note = None
        for x, y, align in (
            (7, 6, "left"),
            (-7, 6, "right"),
            (7, -14, "left"),
            (-7, -14, "right"),
            (7, 18, "left"),
            (-7, -26, "right"),
        ):
            if note:
                note.remove()
            note = axes.annotate(
                text, point, (x, y), textcoords="offset points", color=color, horizontalalignment=align
            )
            box = note.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def chart(path, summaries, real):
    """Methods as points: how often the wanted name is the first, against diversity, both with their intervals."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    whole, labels = summaries[real]["diversity"][0], []
    for row, values in summaries.items():
        name, _, kind = row.partition(" ")
        (y, *y_ends), (x, *x_ends) = values["top1"], values["diversity"]
        color = "#7a3e9d" if row == real else COLORS[kind]
        style = dict(fmt="*", markersize=13) if row == real else dict(fmt="o", markersize=7)
        axes.errorbar(
            x / whole,
            100 * y,
            xerr=spread(x, x_ends, 1 / whole),
            yerr=spread(y, y_ends, 100),
            color=color,
            elinewidth=0.8,
            alpha=0.9,
            **style,
        )
        labels.append((row if row == real else name, (x / whole, 100 * y), color))
    for kind, color in COLORS.items():
        if any(row.endswith(f" {kind}") for row in summaries):
            axes.plot([], [], "o", color=color, label=kind)
    figure.legend(frameon=False, loc="outside upper right", ncols=len(COLORS))
    axes.set(
        xlabel="diversity within a prompt, the real drawings' being 1", ylabel="the wanted name is the first of all, %"
    )
    # Most methods make nearly the same picture four times: a logarithm tells them apart.
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    place(axes, labels)

    def writer(part):
        figure.savefig(part)

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, writer)
