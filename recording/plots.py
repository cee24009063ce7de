"""schedule.png: timesteps and weights over the run."""

import logging
from pathlib import Path

import torch

from schedules.schedule import Schedule

COLORS = {"t": "#2b5c8a", "w": "#b5532a", "W_d": "#8a8a8a", "W_p": "#3f8f5b", "W": "#7a3e9d"}


def new_figure(columns: int):
    """→ (figure, axes) of so many panels side by side, 1200 × 400 pixels."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # It reports that it builds its font cache.
    from matplotlib.figure import Figure  # A second to import.

    figure = Figure(figsize=(12, 4), dpi=100)
    axes = figure.subplots(1, columns)
    # Room for the labels, by hand: matplotlib's own layouts draw everything twice, and every run waits for this.
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.14, top=0.91, wspace=0.22 if columns == 2 else 0.28)
    for panel in axes:
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def weight_range(schedule: Schedule, steps: list[int]) -> list[torch.Tensor]:
    """The least, mean and greatest w of each step over all t that can be drawn at it."""
    weights = []
    for step in steps:
        low, high = (int(end[step]) for end in schedule.bounds)
        weights.append(schedule.weight(torch.arange(low, high + 1), step))
    return [torch.stack([reduce(values) for values in weights]) for reduce in (torch.min, torch.mean, torch.max)]


def plot_schedule(path: Path, schedule: Schedule) -> None:
    """t and w over the run, and for dreamtime W_d, W_p and W over t.

    Where t is random: the range that it is drawn from, and the range and the mean of w over it.
    """
    config, N, (low, high) = schedule.config, schedule.steps, schedule.bounds
    figure, axes = new_figure(3 if schedule.dreamtime else 2)
    steps = torch.arange(N) if not schedule.random else torch.linspace(0, N - 1, min(N, 400)).long()
    edges = [*steps.tolist(), N]

    def draw(panel, least, middle, greatest, color, range_label):
        # Each value from its step to the next: short runs and jumps look as they are.
        least, middle, greatest = ([*values.tolist(), values[-1].item()] for values in (least, middle, greatest))
        if schedule.random:
            panel.fill_between(edges, least, greatest, step="post", color=color, alpha=0.22, lw=0, label=range_label)
        panel.step(edges, middle, where="post", color=color, linewidth=2, label="mean")
        panel.set(xlabel="step", xlim=(0, N))
        panel.locator_params(axis="x", nbins=6, integer=True)
        if schedule.random:
            panel.legend(frameon=False)

    draw(axes[0], low[steps], (low + high)[steps] / 2, high[steps], COLORS["t"], "range of t")
    axes[0].set(title=f"timesteps: {config.timestep}", ylabel=f"timestep t, of T = {schedule.T}", ylim=(0, schedule.T))
    w = weight_range(schedule, steps.tolist()) if schedule.random else [schedule.weights(low)] * 3
    draw(axes[1], *w, COLORS["w"], "range over these t")
    top = 1.08 * w[2].max().item() or 1
    axes[1].set(title=f"weight: {config.weight}", ylabel="weight w, factor on the gradient", ylim=(0, top))
    if schedule.dreamtime:
        t = torch.arange(schedule.t_min, schedule.t_max + 1)
        for name, values in zip(("W_d", "W_p", "W"), schedule.dreamtime, strict=True):
            axes[2].plot(t, values[t] / values[t].max(), color=COLORS[name], linewidth=2, label=f"${name}$")
        axes[2].set(title="dreamtime", xlabel="timestep t", ylabel="relative to the maximum", ylim=(0, 1.08))
        axes[2].set_xlim(schedule.t_min, max(schedule.t_max, schedule.t_min + 1))
        axes[2].legend(frameon=False)
    figure.savefig(path)
