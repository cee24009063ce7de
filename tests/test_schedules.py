"""Timesteps and weights against their formulas."""

import pytest
import torch
from conftest import GaussianPrior

from algorithms.particles import Particles
from schedules import Schedule, ScheduleConfig


def build(timestep="uniform", weight="dreamfusion", steps=400, rows=50, t_min=0.02, t_max=0.98, **options):
    prior = GaussianPrior({"": (0, 1)})
    config = ScheduleConfig(timestep=timestep, weight=weight, t_min=t_min, t_max=t_max, **options)
    return Schedule(config, prior, Particles(prior, [""] * rows, "", 0), steps), prior


def test_uniform_meets_its_bounds_and_is_uniform():
    schedule, _ = build(t_min=0.1, t_max=0.109)
    t = torch.cat([schedule.timestep(step) for step in range(400)])
    counts = torch.bincount(t, minlength=1000)
    assert counts[:100].sum() == 0 and counts[110:].sum() == 0
    # 20,000 draws over 10 values: each count has mean 2,000 and deviation 42.
    assert (counts[100:110] - 2000).abs().max() < 5 * 42


def test_fractions_of_t():
    schedule, _ = build()
    assert (schedule.t_min, schedule.t_max) == (20, 980)
    assert build(t_max=1.0)[0].t_max == 999


def test_shared_t_is_one_for_all():
    schedule, _ = build(shared_t=True)
    draws = [schedule.timestep(step) for step in range(20)]
    assert all(len(t.unique()) == 1 and len(t) == 50 for t in draws)
    assert len({int(t[0]) for t in draws}) > 1


def test_hifa_falls_by_the_square_root():
    schedule, _ = build("hifa", steps=100)
    t = [int(schedule.timestep(step)[0]) for step in range(100)]
    assert t[0] == 980 and t[25] == 500 and t[64] == 980 - round(0.8 * 960)
    assert t == sorted(t, reverse=True) and t[-1] >= 20


@pytest.mark.parametrize("t", [0, 20, 500, 999])
def test_weights(t):
    product = 1.0
    for j in range(t + 1):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * j / 999) ** 2
    index = torch.tensor([t])
    assert build()[0].weight(index).item() == pytest.approx(1 - product, rel=1e-9)
    assert build(weight="constant")[0].weight(index).item() == 1
