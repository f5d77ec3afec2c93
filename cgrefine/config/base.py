"""What the sections of the configuration share: frozen models, extra keys forbidden, and common types."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


Fraction = Annotated[float, Field(ge=0, le=1)]


Count = Annotated[int, Field(ge=1)]


Temperature = Annotated[float, Field(ge=1, le=2000, description="K")]


class Section(BaseModel):
    """A frozen section: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
