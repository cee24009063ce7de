"""The flags that the tables have besides those of sds2d.py."""

import os
from dataclasses import asdict, dataclass
from typing import Any

import tyro
from pydantic import PositiveInt, TypeAdapter, ValidationError

from config import flag, parse
from errors import InputError
from priors.prior import PriorConfig


@dataclass
class Options:
    out: str = "outputs/benchmark"
    """Folder of the pictures, which are made once and kept, and of the table."""
    workers: PositiveInt = os.cpu_count() or 1
    """Processes, each on one core with a prior of its own."""
    write_docs: bool = False
    """Write the table into docs/BENCHMARKS.md, between its marks."""


def read_options(arguments: list[str], cls: type) -> tuple[Any, PriorConfig, list[str]]:
    """Command line → (an instance of the dataclass cls, the prior, the flags of sds2d.py, which hold for every row)."""
    options, rest = tyro.cli(cls, args=arguments, return_unknown_args=True)
    try:
        return TypeAdapter(cls).validate_python(asdict(options)), parse(rest).prior, rest
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(f"{flag(fault['loc'][0])} {fault['input']}: {fault['msg']}") from error
