"""User errors, and how an exception becomes an exit code and a one-line message."""

import signal


class InputError(ValueError):
    """Invalid user input. The message is one line that says what is wrong and what would be right."""


def require(good: bool, message: str) -> None:
    """Raises InputError with the message unless `good`."""
    if not good:
        raise InputError(message)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explain(error: BaseException) -> tuple[int, str | None]:
    """An exception → (exit code, message). The message is None for a bug in this program, which needs a traceback."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, FloatingPointError):
        return 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal", signal.SIGINT), "stopped"
    if isinstance(error, OSError):
        return 1, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "DefaultCPUAllocator" in str(error):
        return 1, "out of memory; use fewer --particles or prompts"
    return 1, None
