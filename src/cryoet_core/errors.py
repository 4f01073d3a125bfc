"""Errors that speak to a user: which file, which field, what was found, what was expected, how to fix it."""

from __future__ import annotations


class CryoetError(Exception):
    """Base of every error that is not a bug.

    Parameters
    ----------
    code : short stable identifier, e.g. "E-MRC-01"; listed in docs/errors.md.
    message : one sentence saying what is wrong.
    file, field, found, expected, fix : optional parts of the sentence; ``fix`` tells the user what to do.
    """

    exit_code = 1

    def __init__(self, code, message, *, file=None, field=None, found=None, expected=None, fix=None):
        self.code = code
        self.message = message
        self.file = None if file is None else str(file)
        self.field = field
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        place = ": ".join(str(part) for part in (self.file, self.field) if part is not None)
        text = f"{self.code}: {place}: {self.message}" if place else f"{self.code}: {self.message}"
        facts = []
        if self.found is not None:
            facts.append(f"found {self.found}")
        if self.expected is not None:
            facts.append(f"expected {self.expected}")
        if facts:
            text += ": " + ", ".join(facts)
        text = text.rstrip(".") + "."
        if self.fix:
            text += f" Fix: {str(self.fix).rstrip('.')}."
        return text


class UserInputError(CryoetError):
    """The input files or the config must be changed by the user (exit code 2)."""

    exit_code = 2


class ResourceError(CryoetError):
    """Memory, disk or device are not enough (exit code 3)."""

    exit_code = 3


class DataQualityError(CryoetError):
    """The data are readable, but not good enough to go on (exit code 4)."""

    exit_code = 4
