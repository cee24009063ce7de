"""The tables: which method makes what the prompt says, and what a step costs.

    python benchmark.py quality       every method, with real drawings and DDIM; --quick for a first impression
    python benchmark.py edits         every method that edits, with SDEdit
    python benchmark.py speed         milliseconds per step, against the network calls that it needs
    python benchmark.py rasterizer    the CPU's rasterizer
    python benchmark.py search        searches defaults for a method

`python benchmark.py quality --help` lists its flags. All flags of sds2d.py can be added; they apply to every row.
"""

import importlib
import sys

from errors import explain

COMMANDS = ("quality", "edits", "speed", "rasterizer", "search")


def main(arguments: list[str]) -> None:
    if arguments[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return
    if not arguments or arguments[0] not in COMMANDS:
        print(f"benchmark.py: one of {', '.join(COMMANDS)} is needed (--help explains them)", file=sys.stderr)
        sys.exit(2)
    try:
        importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    except (Exception, KeyboardInterrupt) as error:
        code, line = explain(error)
        if line is None:
            raise
        print(f"benchmark.py: {line}{'; the same command continues' if code == 130 else ''}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
