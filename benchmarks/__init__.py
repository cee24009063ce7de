"""The commands of `python -m benchmarks`, one file each, and what they share: scores.py, pictures.py and tables.py."""
