"""Files that exist under their final name only when they are complete."""

from __future__ import annotations

import errno
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoet_core.errors import disk_full, is_disk_full, of_os_error

_TEMPORARY = re.compile(r"\..*\.(\d+)-[0-9a-f]{8}\.tmp(\.\w+)?\Z")


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


def _remove(temporary: Path) -> None:
    """Best effort: a disk that failed once may refuse this too, and the first error is the one to tell."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError:
        pass


def remove_stale(folder: str | os.PathLike) -> int:
    """Remove temporary files below ``folder`` whose process is dead (it was killed while it wrote) -> how many."""
    removed = 0
    for where, _, names in os.walk(folder):
        for name in names:
            made_by = _TEMPORARY.match(name)
            if made_by and not _is_alive(int(made_by[1])):
                _remove(Path(where) / name)
                removed += 1
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def reserve(stream, n_bytes: int) -> None:
    """Give the open file ``stream`` ``n_bytes`` of zeros on disk, so that mapping it cannot end in a signal when the
    disk is full.

    Raises ResourceError E-DISK-02, and the errors of errors.of_os_error.
    """
    if n_bytes == 0:
        return
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, n_bytes)
        else:  # macOS
            stream.truncate(n_bytes)
    except OSError as error:
        where = (
            stream.name if isinstance(stream.name, str) else tempfile.gettempdir()
        )  # an unnamed file has only its number
        raise (disk_full(where, n_bytes) if is_disk_full(error) else of_os_error(error, where)) from error


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`.

    The block must create the temporary file. If it raises, the temporary file is removed and `path` stays
    as it was. Missing parent folders are made.

    Raises ResourceError E-DISK-02 when the disk is full, the errors of errors.of_os_error for what else the system
    refuses, and whatever the block raised.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise of_os_error(error, target.parent) from error
    temporary = _temporary_name(target)
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        os.replace(temporary, target)
        _flush_folder(target.parent)
    except OSError as error:
        written = temporary.stat().st_size if temporary.exists() else None
        _remove(temporary)
        if is_disk_full(error):
            raise disk_full(target, written_bytes=written) from error
        if error.errno != errno.ENOENT and error.filename in (None, str(temporary), str(target)):
            error.filename = str(target)  # the user knows the file by its final name
            raise of_os_error(error, target) from error
        raise
    except BaseException:
        _remove(temporary)
        raise


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` (UTF-8, as it is: no newline translation) to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))
