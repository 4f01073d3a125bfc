"""Stand-in for cupyx.scipy.fft."""

import scipy.fft
from cupy._array import on_device

for _name in "fft ifft rfft irfft fft2 ifft2 rfft2 irfft2 fftn ifftn rfftn irfftn fftshift ifftshift fftfreq rfftfreq".split():
    globals()[_name] = on_device(getattr(scipy.fft, _name), _name)
next_fast_len = scipy.fft.next_fast_len
