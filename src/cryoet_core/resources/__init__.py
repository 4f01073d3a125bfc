"""Threads, memory, GPUs and time of every job, decided before it runs: see docs/resources.md."""
