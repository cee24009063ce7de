"""schedule.png: timesteps and weights over the run."""

import logging
from pathlib import Path

import torch

from schedules.schedule import Schedule

COLORS = {"t": "#2b5c8a", "w": "#b5532a", "W_d": "#8a8a8a", "W_p": "#3f8f5b", "W": "#7a3e9d"}


def plot_schedule(path: Path, schedule: Schedule) -> None:
    """Plots t and w over the run, and for dreamtime W_d, W_p and W over t.

    If t is random: its range and mean, and the range and mean of w over that range.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # or it reports building its font cache
    from matplotlib.figure import Figure  # takes a second to import

    config, N = schedule.config, schedule.steps
    figure = Figure(figsize=(12, 4), dpi=100)
    axes = figure.subplots(1, 3 if schedule.dreamtime else 2)
    # Fixed margins for the labels: matplotlib's layout engines draw everything twice, and every run waits for this.
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.14, top=0.91, wspace=0.25)
    steps = torch.linspace(0, N - 1, min(N, 1000)).long().tolist()
    t = [torch.arange(int(schedule.bounds[0][step]), int(schedule.bounds[1][step]) + 1) for step in steps]
    w = [schedule.weight(each, step) for each, step in zip(t, steps, strict=True)]
    for panel, values, name in ((axes[0], t, "t"), (axes[1], w, "w")):
        # Each value holds from its step to the next, so that short runs and jumps are drawn as they are.
        rows = [[each.min().item(), each.double().mean().item(), each.max().item()] for each in values]
        least, mean, greatest = zip(*rows, rows[-1], strict=True)
        panel.step([*steps, N], mean, where="post", color=COLORS[name], linewidth=2, label="mean")
        if schedule.random:
            style = {"color": COLORS[name], "alpha": 0.22, "lw": 0, "label": f"range of {name}"}
            panel.fill_between([*steps, N], least, greatest, step="post", **style)
            panel.legend(frameon=False)
        panel.set(xlabel="step", xlim=(0, N), ylim=(0, 1.08 * max(greatest) or 1))
        panel.locator_params(axis="x", nbins=6, integer=True)
    axes[0].set(title=f"timesteps: {config.timestep}", ylabel=f"timestep t, of T = {schedule.T}", ylim=(0, schedule.T))
    axes[1].set(title=f"weight: {config.weight}", ylabel="weight w, factor on the gradient")
    if schedule.dreamtime:
        t = torch.arange(schedule.t_min, schedule.t_max + 1)
        for name, values in zip(("W_d", "W_p", "W"), schedule.dreamtime, strict=True):
            axes[2].plot(t, values[t] / values[t].max(), color=COLORS[name], linewidth=2, label=f"${name}$")
        axes[2].set(title="dreamtime", xlabel="timestep t", ylabel="relative to the maximum", ylim=(0, 1.08))
        axes[2].legend(frameon=False)
    for panel in axes:
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
