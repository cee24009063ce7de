"""The data of a page that compares runs: pictures under a common slider, overlaid curves, results."""

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from recording.page import CURVES, TITLES, points, recorded, records


def comparison(runs: dict[str, Path], page: Path) -> dict[str, Any]:
    """The data of runs {label: folder} for a page at `page`: pictures with their steps and URLs, and curves."""
    parts = []
    for label, folder in runs.items():
        lines, home = records(folder), quote(Path(os.path.relpath(folder, page.parent)).as_posix())
        curves = {name: drawn for name in CURVES if (drawn := points(name, lines))}
        last = max((line["step"] for line in lines), default=0)
        parts.append({"label": label, "home": home, "pictures": recorded(folder), "curves": curves, "last": last})
    names = [name for name in TITLES if any(name in part["pictures"] for part in parts)]
    steps = {step for part in parts for of_one in part["pictures"].values() for step in of_one}
    return {
        "runs": parts,
        "names": [(name, TITLES[name]) for name in names],
        "steps": sorted(steps),
        "curves": [(name, title) for name, title in CURVES.items() if any(name in part["curves"] for part in parts)],
        "last": max((part["last"] for part in parts), default=0),
    }


def results(runs: dict[str, Path]) -> dict[str, list[float | None]]:
    """{name: one number per run}: seconds, and the last scores, averaged over the particles."""
    table = {"seconds": [], "clip_score": [], "directional": []}
    for folder in runs.values():
        lines = records(folder)
        table["seconds"].append(sum(line.get("seconds", 0) for line in lines))
        for name in ("clip_score", "directional"):
            last = next((line[name] for line in reversed(lines) if name in line), None)
            table[name].append(last and sum(last) / len(last))
    return {name: values for name, values in table.items() if any(value is not None for value in values)}
