"""The commands of `python benchmark.py`, one file each, and shared code."""
