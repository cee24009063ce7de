"""The timestep of each step, and the weight of its gradient: timestep.py and weight.py."""
