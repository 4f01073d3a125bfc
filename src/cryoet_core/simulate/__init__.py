"""Tilt-series movies with known truth, made from beads.

Nothing here uses the library's own projection, CTF, dose or rotation code (geometry, ctf, fourier, kernels): the
formulas of docs/conventions.md are written out a second time, so that an error on one side shows on the other.
"""
