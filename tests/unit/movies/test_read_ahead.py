"""Reading ahead gives the same frames, the same errors, and leaves nothing running."""

import threading

import pytest

from cryoet_core import parallel
from cryoet_core.errors import UserInputError
from cryoet_core.movies.read_ahead import read_ahead


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request):
    with parallel.limited(request.param):
        yield request.param


def _running():
    return [t for t in threading.enumerate() if t.name == "read-ahead"]


def test_order_and_end():
    assert list(read_ahead(iter(range(20)))) == list(range(20)) and not _running()
    assert list(read_ahead([])) == []


def test_one_thread_reads_when_it_is_asked(threads):
    reader = read_ahead(iter(range(3)))
    next(reader)
    assert len(_running()) == threads - 1
    reader.close()


def test_at_most_three_frames_are_held():
    taken = []

    def frames():
        for i in range(50):
            taken.append(i)
            yield i

    for i in read_ahead(frames(), depth=2):
        assert len(taken) <= i + 4  # two waiting, one in the reader's hands, one being used


def test_errors_come_after_the_frames_before_them():
    def frames():
        yield 1
        raise UserInputError("E-MOVIE-02", "the movie is damaged", file="a.tif", fix="copy it again")

    reader = read_ahead(frames())
    assert next(reader) == 1
    with pytest.raises(UserInputError) as stopped:
        next(reader)
    assert stopped.value.code == "E-MOVIE-02" and not _running()


def test_closing_early_closes_the_file():
    closed = []

    def frames():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    reader = read_ahead(frames())
    next(reader)
    reader.close()
    assert closed and not _running()
