"""Timesteps over a run: functions (progress, t_min, t_max, draw) → t (B,) long.

progress         i/N, the fraction of the run that is done at step i, from 0 up to 1 - 1/N
t_min, t_max     bounds, both included
draw(low, high)  integers of U{low … high}, both included, (B,)
"""


def uniform(progress, t_min, t_max, draw):
    """U{t_min … t_max} at every step. DreamFusion, Poole et al. 2022, arXiv 2209.14988."""
    return draw(t_min, t_max)


def hifa(progress, t_min, t_max, draw):
    """t_max - (t_max - t_min) √(i/N): quickly away from pure noise, long in the details. Zhu et al. 2023, arXiv 2305.18766."""
    t = round(t_max - (t_max - t_min) * progress**0.5)
    return draw(t, t)


TIMESTEPS = {"uniform": uniform, "hifa": hifa}
