"""Stand-in for cupyx.scipy.ndimage."""

import scipy.ndimage
from cupy._array import on_device

NAMES = """affine_transform binary_dilation binary_erosion binary_propagation distance_transform_edt gaussian_filter label map_coordinates maximum
maximum_filter minimum_filter median_filter spline_filter uniform_filter uniform_filter1d shift zoom"""
for _name in NAMES.split():
    globals()[_name] = on_device(getattr(scipy.ndimage, _name), _name)
