"""The number of threads of a process: who sees it, and that results do not depend on it."""

import threading

import numpy as np
import pytest
import scipy.fft

from cryoet_core import parallel
from cryoet_core.fourier import rfft_centred
from cryoet_core.kernels.threads import for_blocks


def most_at_once(run, pieces=12):
    """Largest number of pieces that are worked on at the same time: each waits for a partner for a moment."""
    lock, state = threading.Lock(), {"now": 0, "most": 0}

    def piece(_):
        with lock:
            state["now"] += 1
            state["most"] = max(state["most"], state["now"])
        threading.Event().wait(0.01)
        with lock:
            state["now"] -= 1

    run(piece, range(pieces))
    return state["most"]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_and_kernels_use_what_the_process_may(threads):
    with parallel.limited(threads):
        assert most_at_once(parallel.each) == threads
        assert most_at_once(lambda f, items: for_blocks(f, [(i,) for i in items])) == threads
        assert scipy.fft.get_workers() == threads
    assert scipy.fft.get_workers() == 1


@pytest.mark.parametrize(("threads", "pieces", "share"), [(3, 4, 1), (4, 2, 2), (7, 3, 2), (5, 1, 5)])
def test_a_piece_uses_its_share_of_the_threads(threads, pieces, share):
    with parallel.limited(threads):
        assert parallel.each(lambda _: parallel.n_threads(), range(pieces)) == [share] * pieces
        nested = most_at_once(lambda piece, items: parallel.each(lambda _: parallel.each(piece, [0] * 8), range(pieces)))
        assert nested == share * min(threads, pieces)


def test_another_python_thread_has_the_same_limit():
    with parallel.limited(1):
        seen = []
        thread = threading.Thread(target=lambda: seen.append(parallel.n_threads()))
        thread.start()
        thread.join()
    assert seen == [1]


def test_results_come_in_order_and_are_counted():
    counted = []
    with parallel.limited(4):
        assert parallel.each(lambda x: x * x, range(9), report=lambda done, total: counted.append((done, total))) == [x * x for x in range(9)]
    assert counted == [(n, 9) for n in range(1, 10)]


def test_an_error_of_a_piece_is_raised():
    def piece(i):
        if i == 3:
            raise ValueError("three")

    with parallel.limited(2), pytest.raises(ValueError, match="three"):
        parallel.each(piece, range(6))


def test_ffts_and_products_have_the_same_bits_for_any_number_of_threads(rng):
    image = rng.standard_normal((2, 181, 254)).astype(np.float32)
    a, b = rng.standard_normal((130, 333)).astype(np.float32), rng.standard_normal((333, 71)).astype(np.float32)
    found = []
    for threads in (1, 2, 7):
        with parallel.limited(threads):
            products = np.stack(parallel.each(lambda part: a[part] @ b, [slice(0, 65), slice(65, 130)]))
            found.append((rfft_centred(image), rfft_centred(image, 3), products))
    for other in found[1:]:
        for x, y in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(x, y)
