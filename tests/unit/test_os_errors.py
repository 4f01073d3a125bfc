"""What the operating system refuses becomes a sentence with a fix and its exit code, in every place that writes."""

import errno
import os
import resource
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from cryoet_core import step as step_module
from cryoet_core.errors import ResourceError, UserInputError, is_disk_full, of_os_error
from cryoet_core.io.atomic import remove_stale, reserve, write_text
from cryoet_core.io.mrc import MrcStackWriter
from cryoet_core.step import step
from cryoet_core.subtomo.memory import Scratch


@pytest.fixture(autouse=True)
def stays_alive(monkeypatch, tmp_path):
    monkeypatch.setattr(step_module, "_die_with_parent", lambda: None)  # of the test runner
    monkeypatch.chdir(tmp_path)


@contextmanager
def room_for(n_bytes):
    """No file may grow beyond ``n_bytes``: the system then answers as on a full disk (EFBIG)."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def job(tmp_path, log=None, writes_mb=0, rule="refine"):
    return SimpleNamespace(
        rule=rule,
        wildcards=["bin4"],
        input=None,
        output=[str(tmp_path / "out/map.mrc")],
        params={"config": {}, "seed": 7},
        threads=1,
        resources={"gpu": 0, "mem_mb": 100, "writes_mb": writes_mb},
        log=[str(log or tmp_path / "logs/refine/bin4.log")],
        config={"device": "cpu"},
    )


@pytest.mark.parametrize(
    ("number", "code", "exit_code", "word"),
    [
        (errno.ENOSPC, "E-DISK-02", 3, "free space on the disk"),
        (errno.EDQUOT, "E-DISK-02", 3, "quota"),
        (errno.EFBIG, "E-DISK-02", 3, "free in"),
        (errno.ENOENT, "E-FILE-01", 2, "check the path"),
        (errno.EACCES, "E-FILE-03", 2, "chmod"),
        (errno.EPERM, "E-FILE-03", 2, "chmod"),
        (errno.EROFS, "E-FILE-04", 2, "results_dir"),
        (errno.ELOOP, "E-FILE-05", 2, "link"),
        (errno.EISDIR, "E-FILE-06", 2, "correct the path"),
        (errno.ENOTDIR, "E-FILE-06", 2, "correct the path"),
        (errno.ENAMETOOLONG, "E-FILE-07", 2, "shorter"),
        (errno.EMFILE, "E-FILE-08", 3, "ulimit"),
        (errno.EIO, "E-FILE-09", 3, "ls, df"),
        (errno.ESTALE, "E-FILE-09", 3, "ls, df"),
        (None, "E-FILE-09", 3, "ls, df"),
    ],
)
def test_every_refusal_has_a_sentence_and_is_no_bug(tmp_path, number, code, exit_code, word):
    name = str(tmp_path / "data.mrc")
    problem = OSError(number, os.strerror(number), name) if number else OSError("strange")
    found = of_os_error(problem, name)
    assert (found.code, found.exit_code) == (code, exit_code)
    assert name in str(found) and "Fix:" in str(found) and word in str(found)
    with pytest.raises(SystemExit) as stopped, step(job(tmp_path)):
        raise problem
    log = (tmp_path / "logs/refine/bin4.log").read_text()
    assert stopped.value.code == exit_code and code in log and "E-BUG" not in log and "Traceback" not in log


def test_numpys_own_words_for_a_full_disk_are_known():
    assert is_disk_full(OSError("1024 requested and 512 written")) and not is_disk_full(OSError("strange"))


@pytest.mark.parametrize("room", [10, 1024, 1500, 5000, 20000])
def test_a_disk_that_is_full_in_the_middle_of_a_stack(tmp_path, room):
    target = tmp_path / "stack.mrc"
    with room_for(room), pytest.raises(ResourceError) as caught, MrcStackWriter(target, (64, 64), 2.0) as writer:
        for _ in range(4):
            writer.write(np.ones((64, 64), np.float32))
    assert caught.value.code == "E-DISK-02" and str(target) in str(caught.value) and " free in " in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_scratch_says_that_it_has_no_room_and_is_never_killed_by_a_signal(tmp_path):
    scratch = Scratch(tmp_path / "scratch")
    with (
        room_for(100_000),
        pytest.raises(ResourceError, match="E-DISK-02.*found .* free in .*expected 400 kB for this step"),
    ):
        scratch.zeros((100_000,), np.float32)
    scratch.close()
    assert list(tmp_path.iterdir()) == []
    array = Scratch(tmp_path / "scratch").zeros((3, 4), np.float32)
    assert array.shape == (3, 4) and not array.any()
    with open(tmp_path / "empty", "w+b") as file:
        reserve(file, 0)


def test_a_log_on_a_full_disk_ends_the_step_with_one_sentence(tmp_path, capsys):
    log = tmp_path / "full.log"
    log.symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stopped, step(job(tmp_path, log)) as s:
        s.log.info("working")
    said = capsys.readouterr().err
    assert stopped.value.code == 3 and f"E-DISK-02: {log}: no space left" in said
    assert "Traceback" not in said and "Logging error" not in said


def test_a_log_that_cannot_be_made_is_said_too(tmp_path, capsys):
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(SystemExit) as stopped, step(job(tmp_path)):
        pass
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "E-FILE-06" in said and "Traceback" not in said


def test_free_space_is_looked_at_before_the_work_begins(tmp_path):
    begun = []
    with pytest.raises(SystemExit) as stopped, step(job(tmp_path, writes_mb=1e12)):
        begun.append(1)
    log = (tmp_path / "logs/refine/bin4.log").read_text()
    assert stopped.value.code == 3 and begun == []
    assert (
        f"E-DISK-02: {tmp_path / 'out'}: no space left" in log
        and "expected 1e+09 GB for this step" in log
        and " free in " in log
    )


def test_a_folder_where_nothing_may_be_written(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserInputError, match="E-FILE-05.*loop"):
        write_text(tmp_path / "loop/a.txt", "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserInputError, match="E-FILE-06.*file"):
        write_text(tmp_path / "file/a.txt", "x")
    if os.geteuid() != 0:  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UserInputError, match="E-FILE-03.*closed/a.txt"):
            write_text(tmp_path / "closed/a.txt", "x")


def test_only_temporary_files_of_dead_processes_are_removed(tmp_path):
    (tmp_path / "a").mkdir()
    dead, alive = 2**22 + 7, os.getpid()  # above the largest number of a process
    for name in (
        f".map.{dead}-0123abcd.tmp.mrc",
        f".map.{alive}-0123abcd.tmp.mrc",
        "map.mrc",
        f".notes.{dead}.tmp",
        ".x.tmp",
    ):
        (tmp_path / "a" / name).write_text("")
    assert remove_stale(tmp_path) == 1
    assert (
        not (tmp_path / "a" / f".map.{dead}-0123abcd.tmp.mrc").exists() and len(list((tmp_path / "a").iterdir())) == 4
    )
