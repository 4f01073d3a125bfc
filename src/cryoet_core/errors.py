"""Errors that speak to a user: which file, which field, what was found, what was expected, how to fix it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path


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


# ---- what the operating system refuses ------------------------------------------------------------------------------

LEAST_FREE_BYTES = 1e6  # for tables, summaries, logs and Snakemake's records, where nothing else is known
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM)
_UNREADABLE = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO)


def is_disk_full(error: OSError) -> bool:
    """Whether ``error`` says that a disk, a quota or a file is full."""
    return error.errno in _DISK_FULL or (
        error.errno is None and "requested and" in str(error)
    )  # numpy's tofile has no number


def free_bytes(path) -> int | None:
    """Free bytes for this user on the disk of ``path``, of which the nearest folder above must exist; None where
    nobody knows."""
    folder = Path(path).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def disk_full(path, needed_bytes: float | None = None, written_bytes: int | None = None) -> ResourceError:
    """E-DISK-02: the folder, what was needed and what is free there.

    path : the file that did not fit, or its folder. needed_bytes : None where only what was written so far is known.
    """
    free = free_bytes(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).absolute().parent
    if needed_bytes is not None:
        needed = f"{size(needed_bytes)} for this step"
    else:
        needed = (
            "more" if written_bytes is None else f"more than the {size(written_bytes)} that were written of this file"
        )
    return ResourceError(
        "E-DISK-02",
        "no space left on the disk (or in your quota)",
        file=path,
        found=None if free is None else f"{size(free)} free in {folder}",
        expected=needed,
        fix=f"free space on the disk that holds {folder}, or set another folder (results_dir; TMPDIR for scratch), "
        "then run the same command again",
    )


def size(n_bytes: float) -> str:
    """ "812 kB", "3.4 GB": a number of bytes as a reader wants it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def of_os_error(error: OSError, path=None) -> CryoetError:
    """What the operating system refused, as an error with a sentence.

    path : the file that was meant, where the error itself names none. Raises nothing: the caller raises what is
    returned.
    """
    file = error.filename if error.filename is not None else path
    file = os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else None
    if is_disk_full(error):
        return disk_full(file or os.getcwd())
    found = error.strerror or str(error) or type(error).__name__
    if error.errno == errno.ENOENT:
        return UserInputError(
            "E-FILE-01",
            "no such file",
            file=file,
            fix="check the path in the config or table; if a step made it, run again",
        )
    if error.errno in _DENIED:
        return UserInputError(
            "E-FILE-03",
            "permission denied",
            file=file,
            found=_who(file),
            expected="a file this user may read, in a folder this user may write to",
            fix="chmod u+rwX on the file and on the folders above it, or ask its owner; or set another folder",
        )
    if error.errno == errno.EROFS:
        return UserInputError(
            "E-FILE-04",
            "this disk can only be read",
            file=file,
            expected="a folder that can be written to",
            fix="set results_dir (or TMPDIR for scratch) to a folder on another disk",
        )
    broken_link = error.errno == errno.EEXIST and file and os.path.islink(file) and not os.path.exists(file)
    if error.errno == errno.ELOOP or broken_link:
        return UserInputError(
            "E-FILE-05",
            "links that lead to one another, or nowhere",
            file=file,
            expected="a link that ends at a file",
            fix="remove the link and make it again to the file itself",
        )
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
        return UserInputError(
            "E-FILE-06",
            "a file and a folder are confused",
            file=file,
            found=found,
            expected="a file where a file is meant",
            fix="correct the path, or move what has this name away",
        )
    if error.errno == errno.ENAMETOOLONG:
        return UserInputError(
            "E-FILE-07",
            "the name is too long for this disk",
            file=file,
            fix="use shorter names, or a results_dir nearer to the root",
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return ResourceError(
            "E-FILE-08",
            "too many open files",
            file=file,
            found=found,
            fix="raise the limit (ulimit -n 4096), or run fewer jobs at once",
        )
    return ResourceError(
        "E-FILE-09",
        "the system could not read or write this file",
        file=file,
        found=found,
        expected="a disk that answers",
        fix="look whether the disk or the network folder is there (ls, df); copy the file anew if it is damaged; "
        "then run the same command again",
    )


def _who(file) -> str | None:
    try:
        facts = os.stat(file)
    except (OSError, TypeError):
        return None
    return f"mode {facts.st_mode & 0o7777:o}, owner {facts.st_uid}, this user is {os.geteuid()}"
