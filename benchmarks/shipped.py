"""Scores that come with sds2d, of the pictures of docs/BENCHMARKS.md: a new method is compared with them without
making them again.

quality.safetensors has, for each row by the name of its folder, NAME/column (P,) and NAME/features (P, n, D) of its
first P prompts. The folder's name stands for the settings, the code and the prior; the prompts stand in the file's
metadata.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from recording.folder import write_atomic

FILE = Path(__file__).parent / "quality.safetensors"


def read(prompts):
    """{folder name: {column: (P,), "features": (P, n, D)}}, float64; nothing where they were made of other prompts."""
    scores = {}
    if FILE.is_file():
        with safe_open(FILE, "pt") as file:
            if json.loads(file.metadata()["prompts"]) == [list(pair) for pair in prompts]:
                for key in file.keys():  # noqa: SIM118, it is no dictionary
                    name, column = key.split("/")
                    scores.setdefault(name, {})[column] = file.get_tensor(key).double()
    return scores


def keep(rows, prompts):
    """Writes {folder name: scores} next to those of other rows, and in place of the same row's with other settings,
    or of fewer prompts. Features are as precise as the real pictures', float16."""
    labels = {name.rpartition("-")[0] for name in rows}
    for name, scores in read(prompts).items():
        if (
            name.rpartition("-")[0] not in labels
            or name in rows
            and len(scores["features"]) > len(rows[name]["features"])
        ):
            rows = {**rows, name: scores}
    tensors = {
        f"{name}/{column}": (values.half() if column == "features" else values.float()).contiguous()
        for name, scores in rows.items()
        for column, values in scores.items()
    }
    write_atomic(FILE, lambda part: save_file(tensors, part, {"prompts": json.dumps(prompts)}))
