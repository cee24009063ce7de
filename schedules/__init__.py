"""When in the diffusion a step looks at the picture, and the weight of its gradient: timestep.py and weight.py."""
