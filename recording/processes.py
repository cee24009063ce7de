"""Runs calls in parallel processes, on this machine or through Slurm."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from errors import InputError, require

ROOT = Path(__file__).resolve().parent.parent


def in_processes(function: Callable, calls: list[tuple], count: int, threads: int) -> Iterator[int]:
    """Runs function(*call) for each call in `count` processes of `threads` threads each, spread over the GPUs if any;
    in this process if `count` is 1 → the index of each call as it ends.

    Raises what a call raises, and InputError if a process dies.
    """
    if count <= 1 or not calls:
        for number, call in enumerate(calls):
            function(*call)
            yield number
        return
    # Set before the processes import OpenMP and numba, whose idle threads would spin and slow each other down.
    os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = str(threads)
    context, names = multiprocessing.get_context("spawn"), gpus()
    queue = context.Queue()
    for number in range(count):
        queue.put(names[number % len(names)] if names else None)
    pool = concurrent.futures.ProcessPoolExecutor(count, context, start_process, (queue, threads))
    try:
        index = {pool.submit(function, *call): number for number, call in enumerate(calls)}
        for end in concurrent.futures.as_completed(index):
            end.result()
            yield index[end]
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError("a process died; if memory ran out, use fewer --jobs or --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def in_slurm(function: Callable, calls: list[tuple], options: tuple[str, ...], folder: Path) -> Iterator[int]:
    """Hands function(*call) to Slurm for each call, and waits for them → the index of each call as its job ends.

    options: of sbatch, as NAME=VALUE; cluster=local starts the jobs on this machine instead. folder: for the jobs'
    files. A job that is preempted or runs out of time is queued again, with the same call. Raises InputError.
    """
    import submitit  # optional

    class Job(submitit.helpers.Checkpointable):  # is queued again with the same arguments
        def __call__(self, *call):
            function(*call)

    settings = {"cluster": "slurm", "time": "60"} | dict(option.split("=", 1) for option in options)
    try:
        minutes = int(settings.pop("time"))
        executor = submitit.AutoExecutor(folder, settings.pop("cluster"), slurm_max_num_timeout=1000)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--slurm {' '.join(options)}: {error}") from error
    executor.update_parameters(timeout_min=minutes, slurm_additional_parameters=settings)

    def ends():
        # The jobs inherit it, and import this code from wherever they start.
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        with executor.batch():
            jobs = [executor.submit(Job(), *call) for call in calls]
        yield from (jobs.index(job) for job in submitit.helpers.as_completed(jobs, poll_frequency=2))

    return ends()


def require_no_gpu_number(devices: Iterable[str], count: int) -> None:
    """Raises InputError for a device like cuda:1 if there are several processes, each of which sees one GPU."""
    for device in set(devices) if count > 1 else ():
        needed = "cuda is needed; CUDA_VISIBLE_DEVICES chooses the GPUs"
        require(":" not in device, f"--prior.device {device}: several processes share out the GPUs, so {needed}")


def gpus() -> list[str]:
    """The GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(number) for number in range(count)]


def start_process(queue, threads: int) -> None:
    """Sets up a process. It takes a GPU from the queue, and exits with its parent, or it would wait for work
    forever. Ctrl-C reaches all processes, and the parent reports it."""
    if gpu := queue.get():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA starts later, with the first prior.

    def end_with_parent():
        multiprocessing.parent_process().join()
        os._exit(1)

    tqdm.set_lock(threading.RLock())  # Its own is a semaphore, which a killed process would leak.
    threading.Thread(target=end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)  # The last bits of a sum depend on how it is split.
