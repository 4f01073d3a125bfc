"""Tomogram reconstruction: view filters and back-projection."""
