"""Files that exist under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoet_core.errors import ResourceError

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _temporary_name(path: Path) -> Path:
    """A name in the same folder (so that rename is atomic) that no other process can pick; keeps the suffix."""
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{path.stem[:100]}.{token}.tmp{path.suffix}")


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """Make the rename itself durable; some network file systems refuse fsync on folders, which is harmless."""
    try:
        _flush(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EACCES, errno.ENOTSUP):
            raise


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`.

    The block must create the temporary file. If it raises, the temporary file is removed and `path` stays
    as it was. Missing parent folders are made.

    Raises ResourceError E-DISK-02 when the disk is full, and whatever the block raised.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(target)
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _DISK_FULL:
            raise ResourceError(
                "E-DISK-02", "no space left to write this file", file=str(target),
                fix=f"free space on the disk that holds {target.parent.resolve()}, then run again",
            ) from error
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8, as it is: no newline translation) to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))
