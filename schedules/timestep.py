"""Timesteps over a run: functions (step, run) → t (B,) long on the CPU.

step   i, from 0 to run.steps - 1
run    the Schedule: run.steps, run.t_min and run.t_max (both included), run.draw(low, high) for integers of U{low … high},
       both included, run.all(t) for one t in all rows, run.prior
"""


def uniform(step, run):
    """U{t_min … t_max} at every step. DreamFusion, Poole et al. 2022, arXiv 2209.14988."""
    return run.draw(run.t_min, run.t_max)


def linear(step, run):
    """From t_max at the first step down to t_min at the last in a straight line."""
    t = round(run.t_max - (run.t_max - run.t_min) * step / max(1, run.steps - 1))
    return run.all(t)


def hifa(step, run):
    """t_max - (t_max - t_min) √(i/N): quickly away from pure noise, long in the details. Zhu et al. 2023, arXiv 2305.18766."""
    t = round(run.t_max - (run.t_max - run.t_min) * (step / run.steps) ** 0.5)
    return run.all(t)


def ddim(step, run):
    """The timesteps of diffusers' DDIMScheduler on the checkpoint's config; t_min and t_max do not count. For ddim alone."""
    t = int(run.prior.ddim_scheduler(run.steps).timesteps[step])
    return run.all(t)


TIMESTEPS = {"uniform": uniform, "linear": linear, "hifa": hifa, "ddim": ddim}
