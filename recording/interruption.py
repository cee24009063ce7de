"""Ctrl-C and SIGTERM: the first finishes the step and writes all files of a finished run; the second exits at
once."""

import os
import signal
import threading


class Interrupted(KeyboardInterrupt):
    """A run was stopped by `signal` and has written everything; the exit code is 128 + signal."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interruption:
    """Inside this context, self.signal is the first SIGINT or SIGTERM received, or None; a second one ends the
    process.

    Only the main thread receives signals; in other threads, it does nothing.
    """

    signal = None

    def __enter__(self):
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *error):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.signal:
            os._exit(128 + number)  # A half-written file does not replace the old one.
        self.signal = number
        # Not print(): the main thread may be in the middle of one.
        os.write(2, b"\nfinishing the step and writing all files; press Ctrl-C again to stop at once\n")
