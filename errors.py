"""What a user can get wrong, and how an error becomes an exit code and one line."""

import math
import signal
from dataclasses import dataclass


class InputError(ValueError):
    """Something that the user gave can not be used. The message is one line: what was wrong, and what would be
    right."""


@dataclass(frozen=True)
class Range:
    """The limits of a number, as an annotation of a setting: `steps: Annotated[int, Range(1)]`. It must be finite,
    too."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    """Whether `low` itself is too low."""

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value) and (value > self.low or value == self.low and not self.above) and value <= self.high
        )

    def __str__(self) -> str:
        least = [f"{'above' if self.above else 'at least'} {self.low:,}"] if self.low > -math.inf else []
        return " and ".join(least + ([f"at most {self.high:,}"] if self.high < math.inf else [])) or "finite"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def explain(error: BaseException) -> tuple[int, str | None]:
    """An exception → (exit code, its line). The line is None for a fault of this program, which deserves a
    traceback."""
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, FloatingPointError):
        return 1, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "signal", signal.SIGINT), "stopped"
    if isinstance(error, OSError):
        return 1, f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "DefaultCPUAllocator" in str(error):
        return 1, "there is too little memory; fewer --particles or prompts need less"
    return 1, None
