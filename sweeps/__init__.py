"""What `python sweep.py` is made of: its command line, one run, runs on Ray, the figure, and the tables."""
