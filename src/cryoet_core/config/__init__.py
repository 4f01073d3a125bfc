"""The config: one pydantic model per step is the only source of keys, types, defaults, units and meanings."""

from __future__ import annotations

from functools import cache

from cryoet_core.config.base import StepModel, key, validate

__all__ = ["StepModel", "key", "load_config", "validate"]


@cache
def _root():
    from cryoet_core.config.root import Config

    return Config


def load_config(values: dict, file: str | None = None):
    """Validate the merged YAML ``values`` -> Config. Raises UserInputError naming every wrong or unknown key."""
    return validate(_root(), values, file)
