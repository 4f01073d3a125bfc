"""The type of keys that name a point group: checked when the config is read, kept as RELION writes it."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from cryoet_core.errors import UserInputError
from cryoet_core.geometry.symmetry import point_group_name


def _point_group(value: str) -> str:
    try:
        return point_group_name(value)
    except UserInputError as error:
        raise ValueError(f"{error.message}, expected {error.expected}") from None


PointGroup = Annotated[str, AfterValidator(_point_group)]
