"""Runs on Ray: on this machine, or on a cluster that shares the sweep's folder."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from errors import InputError, first_line
from sweeps.grid import Run
from sweeps.runs import execute, fail

TRIES = 3


def connect(address: str, workers: int | None) -> None:
    """Starts a Ray of its own on this machine for "local", or finds the one at the address; Ray lets go of it when this
    process ends.

    Raises InputError where Ray is not installed or does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # optional
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install -r requirements-optional.txt") from error
    own = {"num_cpus": workers, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    options = {"log_to_driver": False, "logging_level": logging.CRITICAL, **(own if address == "local" else {})}
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray has many exceptions for an address where nothing answers.
        raise InputError(f"--ray {address}: Ray can not be reached there ({first_line(error)})") from error


def execute_there(directory: str, threads: int, folder: str, run: Run) -> None:
    os.chdir(directory)  # Paths on the command line are relative to it.
    torch.set_num_threads(threads)  # Sums depend on how they are split: with as many threads the bytes are the same.
    execute(Path(folder), run.name, run.arguments)


def run_on_ray(folder: Path, runs: list[Run], workers: int | None) -> Iterator[Run]:
    """Executes the runs, `workers` at once (None: one a card, else as many as the cores are enough for) → each as
    it ends.

    A run whose worker dies continues on another; the third death is a failure.
    """
    import ray

    resources, threads = ray.cluster_resources(), torch.get_num_threads()
    cards = 0 if all(run.config.prior.device == "cpu" for run in runs) else int(resources.get("GPU", 0))
    count = workers or cards or max(1, int(resources.get("CPU", 1)) // threads)
    needs = {"num_cpus": 0, "num_gpus": 1} if cards else {"num_cpus": 1}
    remote = ray.remote(max_retries=TRIES - 1, **needs)(execute_there)
    waiting, going = list(runs), {}
    while waiting or going:
        while waiting and len(going) < count:
            run = waiting.pop(0)
            going[remote.remote(os.getcwd(), threads, str(folder), run)] = run
        (end,), _ = ray.wait(list(going), num_returns=1)
        run = going.pop(end)
        try:
            ray.get(end)
        except ray.exceptions.RayError as error:
            fail(folder, run.name, f"its worker died {TRIES} times ({first_line(error)})")
        yield run
