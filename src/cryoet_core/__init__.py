"""cryoet_core: the library behind tiltline, from raw tilt-series movies to subtomogram averages."""

__version__ = "0.1.0"
