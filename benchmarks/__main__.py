"""Benchmarks: which method makes what the prompt says, and what a step costs.

    python -m benchmarks quality    every method, beside real drawings and DDIM; --quick for a first impression
    python -m benchmarks edits      every editing method, compared with SDEdit
    python -m benchmarks speed      milliseconds per step, compared with the network calls that it needs
    python -m benchmarks search     searches for a method's defaults

`python -m benchmarks quality --help` lists its flags. Flags of sds2d.py can be added, and apply to every row.
"""

import importlib
import sys

from errors import explain, require

COMMANDS = ("quality", "edits", "speed", "search")


def main(arguments: list[str]) -> None:
    if arguments[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return
    try:
        require(arguments and arguments[0] in COMMANDS, f"one of {', '.join(COMMANDS)} is needed (see --help)")
        importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error)
        if line is None:
            raise
        again = "; run it again to continue" if isinstance(error, KeyboardInterrupt) else ""
        print(f"python -m benchmarks: {line}{again}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    sys.argv[0] = " ".join(["python -m benchmarks", *sys.argv[1:2]])  # what tyro calls the program in its messages
    main(sys.argv[1:])
