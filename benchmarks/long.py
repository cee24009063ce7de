"""`python benchmark.py long`: memory and speed of a long run."""

import tempfile
import time
from pathlib import Path

import sds2d
from config import parse


def main(arguments):
    """Memory and milliseconds a step along a run of 20,000 steps, recorded 200 times."""
    with tempfile.TemporaryDirectory() as out:
        given = [
            *["--steps", "20000", "--particles", "1", "--log.every", "100", "--log.tile", "64"],
            *arguments,
            "--out",
            f"{out}/run",
        ]
        config, last = parse(given), [0, time.perf_counter()]
        print("| step | memory, MB | ms a step |\n| --- | --- | --- |")

        def watch(step, images):
            if step and step % (config.steps // 10) < config.log.every:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                now = time.perf_counter()
                print(
                    f"| {step} | {pages * 4096 / 2**20:.1f} | {1e3 * (now - last[1]) / (step - last[0]):.2f} |",
                    flush=True,
                )
                last[:] = step, now

        sds2d.run(config, watch=watch)
