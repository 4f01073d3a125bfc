"""What every section of the config shares: the model base class, keys with units, and errors that name the nearest key."""

from __future__ import annotations

import difflib
import re
import types
from typing import Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticUndefined

from cryoet_core.errors import UserInputError

LARGEST = 1e15  # of any number in a config
_PLACES = re.compile(r"\{(?:ts|dir)\}")


def _leaves(value):
    """The plain values in lists and mappings; those of sections are looked at by the sections."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _leaves(part) if not isinstance(part, (dict, BaseModel)) else ()
    elif not isinstance(value, (dict, BaseModel)):
        yield value


def _takes_bool(annotation) -> bool:
    if get_origin(annotation) in (Union, types.UnionType, list, tuple):
        return any(map(_takes_bool, get_args(annotation)))
    return annotation is bool or True in get_args(annotation) or False in get_args(annotation)


def _check_text(text: str, meaning: str) -> None:
    """No text has line breaks or other characters that are not seen; braces only as the key's meaning says, because
    Snakemake reads them too."""
    if not text.isprintable():
        raise ValueError("this text holds a line break, a tab or another character that is not seen")
    allowed = set(_PLACES.findall(meaning))
    rest = text
    for place in allowed:
        rest = rest.replace(place, "")
    if re.search(r"[{}]", rest) and "regular expression" not in meaning:
        raise ValueError(
            f"only {' and '.join(sorted(allowed))} may stand in braces here" if allowed else "no braces may stand here"
        )


class StepModel(BaseModel):
    """One section of the config. Its fields are the keys; ``version`` is the version of the step's algorithm.

    The version is part of a rule's params: raise it when results change, and exactly that step and what follows rerun.
    ``uses_gpu``: the step computes on a GPU where there is one.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)
    version: ClassVar[int] = 1
    uses_gpu: ClassVar[bool] = False

    @field_validator("*", mode="before")
    @classmethod
    def _plain_values(cls, value, info):
        field = cls.model_fields[info.field_name]
        for part in _leaves(value):
            if isinstance(part, str):
                _check_text(part, field.description or "")
            elif isinstance(part, bool):
                if not _takes_bool(field.annotation):
                    raise ValueError("a number or text is expected here, not yes or no")
            elif isinstance(part, (int, float)) and abs(part) > LARGEST:
                raise ValueError(f"no key has a number above {LARGEST:g}")
        return value


def key(default: Any = PydanticUndefined, *, meaning: str, unit: str = "", **limits):
    """A config key with its default, unit and meaning; ``limits`` are pydantic's (ge, le, gt, ...)."""
    return Field(default, description=meaning, json_schema_extra={"unit": unit}, **limits)


def _nearest(name: str, known) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'? " if close else ""


def _describe(error: dict, model: type[BaseModel], file: str | None) -> UserInputError:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_keys(model, error["loc"][:-1])
        return UserInputError(
            "E-CFG-01",
            "unknown key",
            file=file,
            field=path,
            fix=f"{_nearest(str(error['loc'][-1]), known)}Known keys here: {', '.join(sorted(known))}",
        )
    return UserInputError(
        "E-CFG-02",
        error["msg"].removeprefix("Value error, "),
        file=file,
        field=path,
        found=_shortened(repr(error.get("input"))),
        fix="see config/README.md for the meaning, unit and range of every key",
    )


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _known_keys(model: type[BaseModel], path) -> list[str]:
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = getattr(field, "annotation", None)
        candidates = [inner, *getattr(inner, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if nested:
            model = nested[0]
    return list(model.model_fields)


def validate(model: type[BaseModel], values: dict, file: str | None = None):
    """Build ``model`` from plain values.

    Raises UserInputError E-CFG-01 (unknown key, with the nearest known one) or E-CFG-02 (wrong value), naming all problems.
    """
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        errors = [_describe(e, model, file) for e in problem.errors()]
        if len(errors) == 1:
            raise errors[0] from None
        text = "\n".join(f"  {e}" for e in errors)
        raise UserInputError("E-CFG-03", f"{len(errors)} problems in the config:\n{text}\n", file=file) from None
