"""What a program does before its slow imports, and once they are over; it imports nothing that is slow itself."""

import atexit
import gc
import sys

# The garbage collector finds nothing in what is loaded, and would take a second at exit, where all of it is scanned.
atexit.register(gc.freeze)


def before_imports() -> None:
    """Says that it is loading, unless --quiet is given, and stops the garbage collector, which would take a second."""
    if "--quiet" not in sys.argv:
        print("loading PyTorch …", file=sys.stderr, flush=True)
    gc.disable()


def before_first_step() -> None:
    """Starts the garbage collector again if before_imports() stopped it, without what was loaded so far."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
