"""Damaged copies of every file that a user gives: each is read in a process of its own, with limits, and its outcome
is counted.

A format registers itself with a maker and a reader (fault_formats.py):

    @file_format("mtf", "mtf.star", text=True)
    def _mtf(folder):                 # makes whole files in ``folder``
        ...
        return lambda path: (read(path), warnings)

``name`` is the file that is damaged; the reader gets its path, and returns what the step would work with and the
warnings it would say.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cryoet_core.errors import CryoetError

SECONDS, MEGABYTES = 10, 1024  # limits of one reading
OUTCOMES = ("our error", "right", "warned", "other result", "other exception", "over the limits")


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """See :func:`file_format`. make : folder -> reader, which is path -> (result, warnings)."""

    name: str
    file: str
    make: Callable
    text: bool


FORMATS: dict[str, FileFormat] = {}


def file_format(name: str, file: str, *, text: bool):
    """Register a format: ``file`` is what is damaged, ``text`` whether it has lines and words."""

    def register(make):
        FORMATS[name] = FileFormat(name, file, make, text)
        return make

    return register


@dataclasses.dataclass(frozen=True)
class Outcome:
    """kind : one of OUTCOMES. detail : the error's sentence, the place of an exception."""

    kind: str
    detail: str = ""


# ---- damage ---------------------------------------------------------------------------------------------------------

_WORDS = ["nan", "inf", "-inf", "-1", "0", "1.5", "1e38", "1e400", "9" * 400, "", "x", "1,5", "True", "-0", "²", "\x00"]
_WORDS += ["a" * 3000, " " * 3000, "{ts}", "../../x", "<!-- -->", "é", "2147483648", "18446744073709551616"]
_HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
_NUMBERS = [0, 1, 7, -1, 2**31 - 1, -(2**31), 65535, 0x7FC00000, 0x7F800000, 0x7E967699]


def _cut(data, rng):
    return data[: rng.randrange(len(data))]


def _flip(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 4, 64])):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _zero(data, rng):
    at, length = rng.randrange(len(data)), rng.choice([1, 16, 512, 4096])
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def _remove(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice([1, 2, 64, 1000]) :]


def _insert(data, rng):
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.choice([1, 4, 100])) + data[at:]


def _number(data, rng):
    """A number in the header, where most of a binary file's meaning is."""
    at = 4 * rng.randrange(max(1, min(len(data), 1024) // 4))
    return data[:at] + (rng.choice(_NUMBERS) & 0xFFFFFFFF).to_bytes(4, rng.choice(["little", "big"])) + data[at + 4 :]


def _replaced(data, rng):
    return rng.choice([b"", b"\n", _HTML, bytes(len(data)), rng.randbytes(len(data)), b"version https://git-lfs\n"])


def _twice(data, rng):
    return data + data


def _header_zeroed(data, rng):
    length = rng.choice([4, 64, 256, 1024])
    return bytes(min(length, len(data))) + data[length:]


BINARY = (_cut, _flip, _flip, _zero, _remove, _insert, _number, _number, _number, _replaced, _twice, _header_zeroed)


def _word(data, rng):
    """A word or number becomes another."""
    places = list(re.finditer(rb"[^\s,;<>\"=\[\]{}]+", data))
    if not places:
        return data[::-1]
    at = rng.choice(places)
    return data[: at.start()] + rng.choice(_WORDS).encode() + data[at.end() :]


def _lines(data, rng):
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 2:
        lines.insert(i, lines[j])
    else:
        lines[i] = lines[i] + b" " + lines[j]
    return b"\n".join(lines)


def _encoding(data, rng):
    text = data.decode("utf-8", "replace")
    return rng.choice(
        [
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            data.replace(b" ", b"\t"),
            data.replace(b".", b","),
            data.replace(b"\n", b" "),
            data.rstrip(b"\n"),
            data.upper(),
            data + b"\xff\xfe\x00",
        ]
    )


def _deep(data, rng):
    return rng.choice([b"[" * 20000, b'{"a":' * 20000, b"<a>" * 20000, data + b"[" * 5000])


TEXT = (_cut, _flip, _word, _word, _word, _word, _lines, _lines, _encoding, _remove, _insert, _replaced, _twice, _deep)


def kind_of(text: bool, number: int) -> Callable:
    """The kind of damage ``number``: they take turns."""
    kinds = TEXT if text else BINARY
    return kinds[number % len(kinds)]


def damaged(data: bytes, text: bool, number: int, name: str) -> bytes:
    """Damage ``number`` of a format: the same every time."""
    return kind_of(text, number)(data, random.Random(f"{name}/{number}"))


# ---- reading --------------------------------------------------------------------------------------------------------


def _digest(value, into) -> None:
    """Everything that a result holds, in a canonical form. Numbers to nine digits."""
    if isinstance(value, np.ndarray) and value.dtype != object:
        into.update(f"{value.shape}".encode())
        values = value if value.dtype.kind not in "fc" else np.round(value.astype(np.complex128).view(np.float64), 9)
        into.update(np.ascontiguousarray(values).tobytes())
    elif isinstance(value, (pd.DataFrame, pd.Series)):
        _digest(value.to_dict("list") if isinstance(value, pd.DataFrame) else value.to_list(), into)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _digest({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, into)
    elif isinstance(value, dict):
        for key, item in value.items():
            into.update(repr(key).encode())
            _digest(item, into)
    elif isinstance(value, (list, tuple, np.ndarray)):
        for item in value:
            _digest(item, into)
    elif isinstance(value, (float, np.floating)):
        into.update(f"{float(value):.9g}".encode())
    else:
        into.update(repr(value).encode())


def _read(reader, path: Path) -> dict:
    """Outcome of one reading in this process, as plain values."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value, said = reader(path)
            into = hashlib.sha256()
            _digest(value, into)
        said = [*map(str, said), *(str(w.message) for w in caught)]
        return {"digest": into.hexdigest(), "warnings": [str(w).replace(str(path.parent), "") for w in said]}
    except CryoetError as error:
        return {"error": str(error)[:600]}
    except MemoryError:
        return {"limit": "memory"}
    except BaseException as error:  # SystemExit and recursion too: none of them is ours
        if isinstance(error, OSError):  # the step says this one as a sentence
            from cryoet_core.errors import of_os_error

            if error.errno is not None:
                return {"error": str(of_os_error(error))[:600]}
        place = traceback.extract_tb(error.__traceback__)
        own = [f for f in place if "cryoet_core" in f.filename] or place
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
        return {"exception": f"{type(error).__name__} at {where}: {str(error)[:200]}"}


def _memory_mb() -> int:
    return int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def read_apart(reader, path: Path) -> dict:
    """Outcome of a reading in a fork of this process, which may take SECONDS and MEGABYTES more than it has."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(receive)
            limit = (_memory_mb() + MEGABYTES) * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os.write(send, json.dumps(_read(reader, path)).encode()[:60000])
        except BaseException:
            with contextlib.suppress(OSError):
                os.write(send, b'{"limit": "memory"}')
        finally:
            os._exit(0)
    os.close(send)
    end, data = time.monotonic() + SECONDS, b""
    while True:
        ready, _, _ = select.select([receive], [], [], max(0.0, end - time.monotonic()))
        part = os.read(receive, 65536) if ready else b""
        if not part:
            break
        data += part
    os.close(receive)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return {"limit": f"{SECONDS} s"}
    if os.WIFSIGNALED(status):
        return {"exception": f"killed by signal {os.WTERMSIG(status)}"}
    return json.loads(data) if data else {"limit": "memory"}


def judge(found: dict, whole: dict) -> Outcome:
    """The outcome beside that of the whole file."""
    if "error" in found:
        return Outcome("our error", found["error"])
    if "exception" in found:
        return Outcome("other exception", found["exception"])
    if "limit" in found:
        return Outcome("over the limits", found["limit"])
    if found["digest"] == whole["digest"]:
        return Outcome("right")
    new = [w for w in found["warnings"] if w not in whole["warnings"]]
    return Outcome("warned", new[0]) if new else Outcome("other result")


@contextlib.contextmanager
def whole_files(form: FileFormat):
    """(path of the file to damage, reader, outcome of the whole file) in a folder that is removed afterwards."""
    here = os.getcwd()
    folder = Path(tempfile.mkdtemp(prefix="tiltline-faults-"))
    try:
        os.chdir(folder)
        reader = form.make(folder)
        path = folder / form.file
        whole = read_apart(reader, path)
        if "digest" not in whole:
            raise AssertionError(f"{form.name}: the whole file is not read: {whole}")
        yield path, reader, whole
    finally:
        os.chdir(here)
        shutil.rmtree(folder, ignore_errors=True)


def campaign(form: FileFormat, count: int, first: int = 0) -> list[tuple[int, Outcome]]:
    """(number of the damage, outcome) for ``count`` damages of one format."""
    outcomes = []
    with whole_files(form) as (path, reader, whole):
        data = path.read_bytes()
        for number in range(first, first + count):
            bad = damaged(data, form.text, number, form.name)
            path.write_bytes(bad)
            found = Outcome("right") if bad == data else judge(read_apart(reader, path), whole)
            if found.kind == "other result":
                found = Outcome(found.kind, kind_of(form.text, number).__name__.strip("_"))
            outcomes.append((number, found))
        path.write_bytes(data)
    return outcomes


def table(results: dict[str, list[tuple[int, Outcome]]]) -> str:
    """A row per format: how many damages had which outcome."""
    lines = ["| format | damages | " + " | ".join(OUTCOMES) + " |", "|---|" + "---|" * (len(OUTCOMES) + 1)]
    total: Counter = Counter()
    for name, outcomes in results.items():
        counts = Counter(outcome.kind for _, outcome in outcomes)
        total += counts
        lines.append(f"| {name} | {len(outcomes)} | " + " | ".join(str(counts[kind]) for kind in OUTCOMES) + " |")
    n = sum(total.values())
    return "\n".join([*lines, f"| **all** | {n} | " + " | ".join(str(total[kind]) for kind in OUTCOMES) + " |"]) + "\n"
