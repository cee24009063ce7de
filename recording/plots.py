"""Plots of a run. matplotlib is imported where it is needed: it takes a second, and --help needs none of it."""

import torch

COLORS = {"t": "#2b5c8a", "w": "#b5532a", "W_d": "#8a8a8a", "W_p": "#3f8f5b", "W": "#7a3e9d"}


def new_figure(columns):
    """→ (figure, axes) of so many panels side by side, 1200 × 400 pixels."""
    import logging

    # It tells of building its font cache, once on each machine; a run's output is not the place.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=100)
    axes = figure.subplots(1, columns)
    # Room for the labels, by hand: matplotlib's own layouts draw everything twice, and every run waits for this.
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.14, top=0.91, wspace=0.22 if columns == 2 else 0.28)
    for panel in axes:
        panel.grid(color="#e4e4e4", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def weights_drawn(schedule, step):
    """w at a step for every t that can be drawn there."""
    low, high = (int(end[step]) for end in schedule.bounds)
    return schedule.weight(torch.arange(low, high + 1), step)


def schedule_plot(path, schedule):
    """t and w over the run, and for dreamtime W_d, W_p and W over t, as a picture in the file `path`.

    Where t is random: the range that it is drawn from, and the range and the mean of w over it.
    """
    from matplotlib.ticker import MaxNLocator

    config, N, dreamtime = schedule.config, schedule.steps, schedule.dreamtime
    figure, axes = new_figure(3 if dreamtime else 2)
    low, high = schedule.bounds
    shown = torch.arange(N) if not schedule.random else torch.linspace(0, N - 1, min(N, 400)).long()
    edges = [*shown.tolist(), N]

    def held(values):
        """Each value from its step to the next: short runs and jumps look as they are."""
        return [*values.tolist(), values[-1].item()]

    def draw(panel, least, middle, greatest, color, range_label):
        if schedule.random:
            panel.fill_between(
                edges, held(least), held(greatest), step="post", color=color, alpha=0.22, lw=0, label=range_label
            )
        panel.step(edges, held(middle), where="post", color=color, linewidth=2, label="mean")
        panel.set(xlabel="step", xlim=(0, N))
        panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if schedule.random:
            panel.legend(frameon=False)

    draw(axes[0], low[shown], (low + high)[shown] / 2, high[shown], COLORS["t"], "drawn from here")
    axes[0].set(title=f"timesteps: {config.timestep}", ylabel=f"timestep t, of T = {schedule.T}", ylim=(0, schedule.T))
    if schedule.random:
        w = [weights_drawn(schedule, step) for step in shown.tolist()]
        least, mean, greatest = (
            torch.stack([kind(values) for values in w]) for kind in (torch.min, torch.mean, torch.max)
        )
    else:
        least = mean = greatest = schedule.weights(low)
    draw(axes[1], least, mean, greatest, COLORS["w"], "over these t")
    top = greatest.max().item()
    axes[1].set(title=f"weight: {config.weight}", ylabel="weight w, factor on the gradient", ylim=(0, 1.08 * top or 1))
    if dreamtime:
        t = torch.arange(schedule.t_min, schedule.t_max + 1)
        for (name, label), values in zip(
            {"W_d": "$W_d$", "W_p": "$W_p$", "W": "$W = W_d W_p$"}.items(), dreamtime, strict=True
        ):
            values = values[t]
            axes[2].plot(
                t, values / values.max(), color=COLORS[name], linewidth=2.4 if name == "W" else 1.6, label=label
            )
        axes[2].set(title="dreamtime", xlabel="timestep t", ylabel="each over its greatest value", ylim=(0, 1.08))
        axes[2].set_xlim(schedule.t_min, max(schedule.t_max, schedule.t_min + 1))
        axes[2].legend(frameon=False)
    figure.savefig(path)
