"""Several runs at once: in processes of this machine, or on Ray, which may be a cluster that shares the sweep's
folder."""

import concurrent.futures
import logging
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from errors import InputError, first_line
from recording.interruption import start_worker
from sweeps.grid import Run
from sweeps.runs import execute, fail

TRIES = 3


def run_in_processes(folder: Path, runs: list[Run], count: int) -> Iterator[Run]:
    """Executes the runs, `count` at once, one a GPU where there are GPUs → each as it ends. Raises InputError where a
    process dies."""
    context = multiprocessing.get_context("spawn")
    numbers = context.Queue()
    for number in range(count):
        numbers.put(number % max(1, torch.cuda.device_count()))
    start = (start_on_card, (numbers, torch.get_num_threads()))
    pool = concurrent.futures.ProcessPoolExecutor(count, context, *start)
    try:
        going = {pool.submit(execute, folder, run.name, run.arguments): run for run in runs}
        for end in concurrent.futures.as_completed(going):
            end.result()
            yield going[end]
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError("a process died; with too little memory take fewer --jobs") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def start_on_card(numbers, threads: int) -> None:
    """What a process begins with. numbers: a queue with the GPU that it takes."""
    os.environ["CUDA_VISIBLE_DEVICES"] = str(numbers.get())  # CUDA starts later, with the first prior.
    start_worker(threads)


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
        raise InputError(f"--ray {address}: Ray cannot be reached there ({first_line(error)})") from error


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


def execute_there(directory: str, threads: int, folder: str, run: Run) -> None:
    os.chdir(directory)  # Paths on the command line are relative to it.
    torch.set_num_threads(threads)  # Sums depend on how they are split: with as many threads the bytes are the same.
    execute(Path(folder), run.name, run.arguments)
