"""The tables: which method makes what the prompt says, and what a step costs.

    python benchmark.py quality       every method, beside real drawings and DDIM; --quick for a first look
    python benchmark.py edits         every method that edits, beside SDEdit
    python benchmark.py speed         milliseconds a step, beside the networks that it can't do without
    python benchmark.py rasterizer    the CPU's rasterizer, beside a dense rendering
    python benchmark.py fitting       how well Gaussians fit pictures
    python benchmark.py long          memory and speed along 20,000 steps

Flags of sds2d.py hold for every row; quality and edits have more, which --help lists.
"""

import importlib
import sys

from errors import InputError

COMMANDS = ("quality", "edits", "speed", "rasterizer", "fitting", "long")


def main(arguments):
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(
            __doc__
            if arguments[:1] in (["--help"], ["-h"])
            else f"usage: python benchmark.py {{{'|'.join(COMMANDS)}}} [flags]"
        )
    try:
        importlib.import_module(f"benchmarks.{arguments[0]}").main(arguments[1:])
    except (InputError, FloatingPointError) as error:
        print(f"benchmark.py: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print("benchmark.py: stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
