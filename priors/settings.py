"""What the types of settings can say: bounded numbers (pydantic has more), and when a setting counts at all."""

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import Field, FiniteFloat

Finite = FiniteFloat
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Negative = Annotated[FiniteFloat, Field(lt=0)]
Rate = Annotated[FiniteFloat, Field(gt=0, lt=1e30)]  # a learning rate that fits in float32


@dataclass(eq=False)  # so that it can be hashed, as typing wants it
class Condition:
    """choices: {setting: the values with one of which the condition holds}; one of these settings is enough. needed:
    whether there must then be a value."""

    choices: Mapping[str, tuple]
    needed: bool


def when(choices: Mapping[str, Any] | None = None, needed: bool = False, **more: Any) -> Condition:
    """A condition beside a setting or a group of them, which otherwise has no effect, and is refused:

        lora_rank: Annotated[PositiveInt, when(phi="lora")] = 4

    Names are of settings in the same dataclass, or dotted and in full: when({"algo.name": ["dds", "pds"]}). Of several
    names in one when(), one is enough; of several when(), all must hold.
    """
    choices = {**(choices or {}), **more}
    return Condition({k: tuple(v) if isinstance(v, list | tuple) else (v,) for k, v in choices.items()}, needed)


class Setting(NamedTuple):
    """The type of a setting, and its conditions, whose names are dotted and in full."""

    type: Any
    conditions: tuple[Condition, ...]


def settings_of(cls: type, prefix: str = "", conditions: tuple[Condition, ...] = ()) -> dict[str, Setting]:
    """Every setting of nested dataclasses by its dotted name. What holds for a group holds for each in it."""
    found = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        own = conditions
        for note in notes:
            if isinstance(note, Condition):
                full = {key if "." in key else prefix + key: values for key, values in note.choices.items()}
                own += (Condition(full, note.needed),)
        if is_dataclass(kind):
            found |= settings_of(kind, f"{prefix}{name}.", own)
        else:
            found[prefix + name] = Setting(kind, own)
    return found
