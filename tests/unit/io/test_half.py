"""Half precision: the same bits as NumPy's, right statistics, and the rule of where it is enough."""

import mrcfile
import numpy as np
import pytest

from cryoet_core.io import half
from cryoet_core.io.mrc import MrcStackWriter, read_header, read_mrc


def test_conversions_give_numpys_bits(rng):
    bits = np.arange(0, 2**32, 99991, dtype=np.uint64).astype(np.uint32)
    edges = np.array([0x33000000, 0x33000001, 0x387FFFFF, 0x38800000, 0x477FEFFF, 0x477FF000, 0x7F800000, 0xFF800000], np.uint32)
    single = np.concatenate([bits, edges]).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = single.astype(np.float16)
    found = half.to_half(single)
    assert np.array_equal(found[~np.isnan(single)].view(np.uint16), expected[~np.isnan(single)].view(np.uint16))
    assert np.isnan(found[np.isnan(single)]).all()
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    assert np.array_equal(half.from_half(every).view(np.uint32), every.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_statistics_are_those_of_float64(rng, dtype):
    image = (1000 + rng.standard_normal((70, 113))).astype(dtype)
    found, exact = half.measure(image), image.astype(np.float64)
    assert (found.minimum, found.maximum) == (exact.min(), exact.max())
    assert found.mean == pytest.approx(exact.mean(), rel=1e-14)
    assert found.squares == pytest.approx(np.square(exact - exact.mean()).sum(), rel=1e-10)
    image[3, 4] = np.nan
    assert np.isnan(half.measure(image).mean)


@pytest.mark.parametrize("electrons", [1, 10, 100])
@pytest.mark.parametrize("counts", [1.0, 37.5, 450.0])
def test_rounding_is_far_below_shot_noise_whatever_an_electron_counts(rng, electrons, counts):
    """At most 2^-11 n of n electrons, 3e-4 sqrt(n) of their noise in the mean square: 0.3 % at 100."""
    view = (counts * (rng.poisson(electrons, (256, 256)) + rng.uniform(-0.5, 0.5, (256, 256)))).astype(np.float32)
    error = np.sqrt(np.mean((half.from_half(half.to_half(view)) - view) ** 2, dtype=np.float64)) / (counts * np.sqrt(electrons))
    assert error < 3e-4 * np.sqrt(electrons + 1)
    assert half.rounding_over_noise(view) == pytest.approx(error, rel=0.2)
    assert half.is_enough(view)


def test_where_half_precision_is_not_enough(rng):
    pedestal = (30000 + rng.normal(0, 20, (128, 128))).astype(np.float32)  # steps of 16
    assert not half.is_enough(pedestal) and half.rounding_over_noise(pedestal) == pytest.approx(16 / np.sqrt(12) / 20, rel=0.05)
    tiny = (1e-7 * rng.standard_normal((128, 128))).astype(np.float32)  # steps of 6e-8
    assert not half.is_enough(tiny)
    large = rng.poisson(100, (128, 128)).astype(np.float32)
    assert half.is_enough(large)
    large[5, 6] = 70000
    assert not half.is_enough(large)
    assert half.is_enough(np.zeros((64, 64), np.float32))


def test_a_stack_that_grows_out_of_half_precision_keeps_its_sections(tmp_path, rng):
    stack = rng.normal(100, 10, (5, 33, 47)).astype(np.float32)
    with MrcStackWriter(tmp_path / "a.mrc", (33, 47), 2.0, dtype="float16") as writer:
        for number, section in enumerate(stack):
            if number == 3:
                writer.widen()
            writer.write(section)
    read = read_mrc(tmp_path / "a.mrc")[0]
    assert read_header(tmp_path / "a.mrc").mode == 2
    assert np.array_equal(read[:3], stack[:3].astype(np.float16).astype(np.float32)) and np.array_equal(read[3:], stack[3:])
    with mrcfile.open(tmp_path / "a.mrc") as f:
        assert float(f.header.rms) == pytest.approx(read.std(), rel=1e-5)
