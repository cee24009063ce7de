"""Runs handed to Ray: on this machine, or on a cluster that shares the sweep's folder. Only this file knows Ray."""

import contextlib
import logging
import os
from collections import Counter
from pathlib import Path

import torch

from errors import InputError, first_line
from sweeps.runs import execute, fail

TRIES = 3


class Worker:
    """A process of Ray that loads a prior once and keeps it; where there are cards, one is its own."""

    def __init__(self, directory, threads):
        os.chdir(directory)  # Paths on the command line are meant from there.
        torch.set_num_threads(
            threads
        )  # Sums depend on how they are split: as many threads as without Ray, the same bytes.

    def execute(self, folder, name, arguments):
        execute(Path(folder), name, arguments)


@contextlib.contextmanager
def connected(address, workers):
    """Inside, Ray is there: one of its own on this machine for "local", else the one at the address.

    Raises InputError where Ray is not installed or does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install -r requirements-ray.txt") from error
    own = dict(num_cpus=workers, object_store_memory=100 * 2**20, include_dashboard=False) if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # Ray has many ways to say that nobody is there.
        raise InputError(f"--ray {address}: Ray can not be reached there ({first_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def on_ray(folder, runs, workers):
    """Executes the runs on `workers` workers (None: a card each, else as many cores as a run takes without Ray); yields each
    run as it ends.

    A run whose worker dies is tried again, from its beginning, on a new one; three deaths are a failure.
    """
    import ray

    resources = ray.cluster_resources()
    cards = 0 if all(run.config.prior.device == "cpu" for run in runs) else int(resources.get("GPU", 0))
    count = min(len(runs), workers or cards or max(1, int(resources.get("CPU", 1)) // torch.get_num_threads()))
    needs = dict(num_cpus=0, num_gpus=1) if cards else dict(num_cpus=1)
    remote = ray.remote(**needs)(Worker)

    def worker():
        return remote.remote(os.getcwd(), torch.get_num_threads())

    idle, waiting, going, deaths = [worker() for _ in range(count)], list(runs), {}, Counter()
    while waiting or going:
        while idle and waiting:
            one, run = idle.pop(), waiting.pop(0)
            going[one.execute.remote(str(folder), run.name, run.arguments)] = one, run
        (end,), _ = ray.wait(list(going), num_returns=1)
        one, run = going.pop(end)
        try:
            ray.get(end)
        except ray.exceptions.RayActorError:
            one = worker()
            deaths[run.name] += 1
            if deaths[run.name] < TRIES:
                waiting.insert(0, run)
            else:
                fail(folder, run.name, f"the worker died {TRIES} times")
        except ray.exceptions.RayError as error:
            fail(folder, run.name, first_line(error))
        idle.append(one)
        if run not in waiting:
            yield run
