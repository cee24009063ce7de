"""Runs in several processes of this machine, one a GPU where there are GPUs."""

import concurrent.futures
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from errors import InputError
from recording.interruption import start_worker
from sweeps.grid import Run
from sweeps.runs import execute


def start_on_card(numbers) -> None:
    """numbers: a queue with the worker's own: the GPU that it takes, and its threads."""
    number, threads = numbers.get()
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number)  # CUDA starts later, with the first prior.
    start_worker(threads)


def run_in_processes(folder: Path, runs: list[Run], count: int) -> Iterator[Run]:
    """Executes the runs, `count` at once → each as it ends. Raises InputError where a process dies."""
    context, threads, cards = multiprocessing.get_context("spawn"), torch.get_num_threads(), torch.cuda.device_count()
    numbers = context.Queue()
    for number in range(count):
        numbers.put((number % max(1, cards), threads))
    pool = concurrent.futures.ProcessPoolExecutor(count, context, start_on_card, (numbers,))
    try:
        going = {pool.submit(execute, folder, run.name, run.arguments): run for run in runs}
        for end in concurrent.futures.as_completed(going):
            end.result()
            yield going[end]
    except concurrent.futures.process.BrokenProcessPool as error:
        raise InputError("a process died; with too little memory take fewer --jobs") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
