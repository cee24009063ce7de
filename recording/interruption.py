"""Ctrl-C and SIGTERM: the step is finished, and then everything that a finished run leaves; the second time is the
end."""

import os
import signal
import threading


class Interrupted(KeyboardInterrupt):
    """A run was stopped by `signal`, and has written everything: 128 + signal is the exit code."""

    def __init__(self, number):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interruption:
    """While it is entered, self.signal is the first SIGINT or SIGTERM that came, else None; a second one ends the
    process.

    Threads other than the main one get no signals: there it does nothing.
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
            os._exit(128 + number)  # A file that is being written does not replace the old one.
        self.signal = number
        # No print: the main thread may be in the middle of one.
        os.write(2, b"\nfinishing the step and writing what there is; a second time ends it at once\n")
