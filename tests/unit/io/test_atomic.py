"""Atomic writing and summaries."""

import json
import resource
import signal

import numpy as np
import pytest

from cryoet_core.errors import ResourceError, UserInputError
from cryoet_core.io.atomic import atomic_path, write_text
from cryoet_core.io.summary import read_summary, write_summary


def test_file_appears_complete(tmp_path):
    target = tmp_path / "new folder" / "a'b (1).txt"
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
    assert target.read_text() == "half"
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_resource_error(tmp_path):
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old_limit[1]))
        with pytest.raises(ResourceError, match="E-DISK-02") as caught:
            write_text(tmp_path / "big.txt", "x" * 10000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_summary_is_sorted_rounded_and_plain(tmp_path):
    path = tmp_path / "summary.json"
    write_summary(path, {
        "z": np.float32(1.5), "a": 1 / 3, "nan": float("nan"), "list": np.arange(3), "flag": np.bool_(True),
        "path": tmp_path / "x", "big": 12345678901234, "nested": {"inf": np.inf},
    })
    text = path.read_text()
    assert text.index('"a"') < text.index('"z"')
    assert json.loads(text) == read_summary(path)
    values = read_summary(path)
    assert values["a"] == 0.333333333
    assert values["nan"] is None and values["nested"] == {"inf": None}
    assert values["list"] == [0, 1, 2] and values["flag"] is True and values["big"] == 12345678901234
    with pytest.raises(TypeError):
        write_summary(path, {"x": object()})


def test_damaged_summary(tmp_path):
    (tmp_path / "s.json").write_text('{"a": ')
    with pytest.raises(UserInputError, match="E-JSON-01"):
        read_summary(tmp_path / "s.json")
