"""YAML as a user writes it: safe, of a sensible size, and with every key once."""

from __future__ import annotations

from pathlib import Path

import yaml

LARGEST_BYTES = 10_000_000
MOST_ALIASES = 20  # 3 parts of 7 levels: some thousand copies
_Safe = yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader
_MERGE = "tag:yaml.org,2002:merge"


class _OnceLoader(_Safe):
    """A safe loader that refuses a key given twice (YAML would silently take the last one)."""

    def construct_mapping(self, node, deep=False):
        seen = {}
        for key, _ in node.value:
            if key.tag == _MERGE or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"'{key.value}' is given twice, in lines {seen[key.value]} and {key.start_mark.line + 1}",
                    None,
                )
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=deep)


def read_yaml(path, most_aliases: int = MOST_ALIASES):
    """What a YAML file holds. most_aliases : how often it may name a part of itself again (*name): parts of parts of parts fill the memory.

    Raises yaml.YAMLError (not YAML, a key given twice, too many aliases, too deep, too large), OSError and
    UnicodeDecodeError (a ValueError).
    """
    size = Path(path).stat().st_size
    if size > LARGEST_BYTES:
        raise yaml.YAMLError(f"{size} bytes: too large for a list of keys")
    text = Path(path).read_text(encoding="utf-8")
    aliases = sum(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=_Safe))
    if aliases > most_aliases:
        raise yaml.YAMLError(f"{aliases} times an alias (*): at most {most_aliases} can be meant")
    try:
        return yaml.load(text, _OnceLoader)  # a safe loader
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
