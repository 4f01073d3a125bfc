"""YAML as a user writes it: safe, of a sensible size, and with every key once."""

from __future__ import annotations

from pathlib import Path

import yaml

LARGEST_BYTES = 10_000_000
_MERGE = "tag:yaml.org,2002:merge"


class _OnceLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):
    """A safe loader that refuses a key given twice (YAML would silently take the last one) and many aliases: of one another they fill the memory."""

    most_aliases = 20

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            self.aliases = getattr(self, "aliases", 0) + 1
            if self.aliases > self.most_aliases:
                raise yaml.YAMLError(f"more than {self.most_aliases} aliases (*name)")
        return super().compose_node(parent, index)

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


class _PlainLoader(_OnceLoader):
    most_aliases = 0


def read_yaml(path, aliases: bool = True):
    """What a YAML file holds; ``aliases``: whether it may name a part of itself again (*name).

    Raises yaml.YAMLError (not YAML, a key given twice, too many aliases, too deep, too large), OSError and
    UnicodeDecodeError (a ValueError).
    """
    size = Path(path).stat().st_size
    if size > LARGEST_BYTES:
        raise yaml.YAMLError(f"{size} bytes: too large for a list of keys")
    text = Path(path).read_text(encoding="utf-8")
    try:
        return yaml.load(text, _OnceLoader if aliases else _PlainLoader)  # noqa: S506  a SafeLoader
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply") from error
