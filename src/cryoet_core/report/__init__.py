"""The report: one self-contained HTML page with, for every step, the picture a biologist expects and its numbers."""
