"""Types of settings: bounded numbers. pydantic has more."""

from typing import Annotated

from pydantic import Field, FiniteFloat

Finite = FiniteFloat
NonNegative = Annotated[FiniteFloat, Field(ge=0)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Negative = Annotated[FiniteFloat, Field(lt=0)]
Rate = Annotated[FiniteFloat, Field(gt=0, lt=1e30)]  # a learning rate that fits in float32
