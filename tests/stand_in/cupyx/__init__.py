"""Stand-in for cupyx (see cupy beside it)."""
