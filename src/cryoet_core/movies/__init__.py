"""Movies: gain, defects, whole-frame motion, even and odd sums; halves of stacks that come without frames."""
