"""The config: one pydantic model per step is the only source of keys, types, defaults, units and meanings."""

from __future__ import annotations

from functools import cache

from cryoet_core.config.base import StepModel, key, validate

__all__ = ["StepModel", "check_file", "key", "load_config", "validate"]


@cache
def _root():
    from cryoet_core.config.root import Config

    return Config


def load_config(values: dict, file: str | None = None):
    """Validate the merged YAML ``values`` -> Config. Raises UserInputError naming every wrong or unknown key."""
    return validate(_root(), values, file)


def check_file(path) -> None:
    """The YAML of a config file is whole, each key given once. Raises UserInputError E-CFG-15.

    Snakemake merges the files before they come here, and of a key given twice it has kept the last one without a word.
    """
    import yaml

    from cryoet_core.errors import UserInputError, of_os_error
    from cryoet_core.io.yaml_file import read_yaml

    try:
        read_yaml(path)
    except OSError as error:
        raise of_os_error(error, path) from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserInputError(
            "E-CFG-15",
            "this config file is not right as YAML",
            file=path,
            found=" ".join(str(error).split()),
            expected="every key once, with its value",
            fix="remove or rename one of them",
        ) from error
