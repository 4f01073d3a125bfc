"""Words of text files as numbers."""

from __future__ import annotations


def to_float(word) -> float:
    """The number that a word, or a number of JSON, is; raises ValueError or TypeError for anything else.

    Python's "1_000" is no number in anyone's file, and a whole number of 400 digits has no float.
    """
    if isinstance(word, str) and "_" in word:
        raise ValueError(f"not a number: {word[:40]!r}")
    try:
        return float(word)
    except OverflowError:
        return float("inf")
