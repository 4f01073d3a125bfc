"""Independent pieces of a search on several CPU threads: see :func:`cryoet_core.parallel.each`."""

from cryoet_core.parallel import each

__all__ = ["each"]
