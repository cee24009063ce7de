"""What `python benchmark.py` is made of: a file a command, and what they share."""
