"""Readers and writers. Every writer is atomic and leaves no date, host or path of its own in the bytes."""
