"""Timesteps and weights against their formulas, written out here in plain Python, and against what they promise."""

import math
from bisect import bisect_right

import numpy as np
import pytest
import torch
from conftest import GaussianPrior
from PIL import Image

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from errors import InputError
from recording.plots import plot_schedule
from schedules.dreamtime import DreamTimeSettings
from schedules.schedule import RandomDecaySettings, Schedule, ScheduleConfig
from schedules.timestep import RANGED

PRIOR = GaussianPrior({"": (0, 1)})
RANGE = {"t_min": 0.02, "t_max": 0.98}

# ᾱ of Stable Diffusion, product by product.
BARS, product = [], 1.0
for j in range(1000):
    product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * j / 999) ** 2
    BARS.append(product)


def build(timestep="uniform", weight="dreamfusion", steps=400, rows=50, least_t=0, samplers=None, **options):
    options = (RANGE if timestep in RANGED else {}) | options
    config = ScheduleConfig(timestep=timestep, weight=weight, **options)
    schedule = Schedule(config, PRIOR, steps, least_t, samplers)
    schedule.particles = Particles(PRIOR, [""] * rows, "", 0)  # for the calls below
    return schedule


def path(*arguments, rows=2, **options):
    """The timesteps of a run whose rows all have the same."""
    schedule = build(*arguments, rows=rows, **options)
    t = torch.stack([schedule.timestep(step, schedule.particles) for step in range(schedule.steps)])
    assert t.dtype == torch.long and (t == t[:, :1]).all() and not schedule.random
    return t[:, 0].tolist()


def near(t, exact):
    """Each the integer nearest to the exact value; halves may go either way."""
    return len(t) == len(exact) and all(abs(a - b) <= 0.5 + 1e-9 for a, b in zip(t, exact, strict=True))


# ----------------------------------------------------------------------------------------------------------- timesteps


@pytest.mark.parametrize("given, facts", [(dict(t_min=0.99), "990.*980"), (dict(t_min=0.5, t_max=0.3), "500.*300")])
def test_a_range_without_timesteps(given, facts):
    with pytest.raises(InputError, match=facts):
        build(**{"t_max": None} | given)
    with pytest.raises(InputError, match="980.*990"):
        build(least_t=990, t_max=None)


def test_uniform_meets_its_bounds_and_is_uniform():
    schedule = build(t_min=0.1, t_max=0.109)
    t = torch.cat([schedule.timestep(step, schedule.particles) for step in range(400)])
    counts = torch.bincount(t, minlength=1000)
    assert counts[:100].sum() == 0 and counts[110:].sum() == 0
    # 20,000 draws over 10 values: each count has mean 2,000 and deviation 42.
    assert (counts[100:110] - 2000).abs().max() < 5 * 42
    row = torch.stack([schedule.timestep(step, schedule.particles) for step in range(50)])
    assert all(len(t.unique()) > 1 for t in row), "one each"


def test_uniform_draws_from_each_rows_own_generator():
    """So an older run repeats: randint of U{t_min … t_max} from the generator of seed + row, step after step."""
    schedule = build(rows=3, steps=7)
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    for step in range(7):
        assert schedule.timestep(step, schedule.particles).tolist() == [
            int(torch.randint(20, 981, (1,), generator=g)) for g in generators
        ]


def test_fractions_and_timesteps():
    ends = lambda **options: (lambda s: (s.t_min, s.t_max))(build(**options))  # noqa: E731
    assert ends() == (20, 980)
    assert ends(t_min=0, t_max=1.0) == (0, 999)
    assert ends(t_min=20, t_max=980) == (20, 980)
    assert ends(t_min=2, t_max=0.5) == (2, 500)
    assert ends(t_min=0.0, t_max=1.4) == (0, 1)
    assert ends(t_max=999.4) == (20, 999)
    assert ends(least_t=80) == (80, 980), "the method's own least t"
    assert build().note is None and "80" in build(least_t=80).note and "t-min 0.02" in build(least_t=80).note
    assert path("constant", t=0.5, steps=3) == path("constant", t=500, steps=3) == [500] * 3
    assert path("constant", t=1, steps=1) == [999] and path("constant", t=2, steps=1) == [2]


def test_shared_t_is_one_for_all():
    schedule = build(shared_t=True)
    draws = [schedule.timestep(step, schedule.particles) for step in range(20)]
    assert all(len(t.unique()) == 1 and len(t) == 50 for t in draws)
    assert len({int(t[0]) for t in draws}) > 1


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 2000])
def test_linear_is_a_straight_line(steps):
    t = path("linear", steps=steps)
    assert near(t, [980 - 960 * i / max(1, steps - 1) for i in range(steps)])
    assert t[0] == 980 and (steps == 1 or t[-1] == 20)


def test_hifa_falls_by_the_square_root():
    t = path("hifa", steps=100)
    assert t[0] == 980 and t[25] == 500 and t[64] == 980 - round(0.8 * 960)
    assert near(t, [980 - 960 * math.sqrt(i / 100) for i in range(100)])


@pytest.mark.parametrize("name", ["linear", "hifa", "dreamtime"])
@pytest.mark.parametrize("steps, ends", [(1, (0.02, 0.98)), (37, (0.3, 0.7)), (3000, (0, 1)), (50, (0.5, 0.5))])
def test_those_that_fall_never_rise_and_stay_in_bounds(name, steps, ends):
    t = path(name, steps=steps, t_min=ends[0], t_max=ends[1])
    low, high = (min(999, round(end * 1000)) for end in ends)
    assert t == sorted(t, reverse=True) and low <= t[-1] and t[0] <= high


def W(t, m1=800.0, s1=300.0, m2=500.0, s2=100.0):
    """DreamTime's, as METHODS.md has it."""
    if t > m1:
        prior = math.exp(-((t - m1) ** 2) / (2 * s1**2))
    elif t < m2:
        prior = math.exp(-((t - m2) ** 2) / (2 * s2**2))
    else:
        prior = 1.0
    return math.sqrt((1 - BARS[t]) / BARS[t]) * prior


BELLS = [{}, {"m1": 600, "s1": 150, "m2": 600, "s2": 150}, {"m1": 0.9, "s1": 0.05, "m2": 0.2, "s2": 0.1}]


@pytest.mark.parametrize("steps", [1, 10, 333, 1500])
@pytest.mark.parametrize("bells", BELLS, ids=str)
def test_dreamtime_gives_each_t_its_share(bells, steps):
    """Its t is the one whose tail sum is nearest to i/N, searched here among all of them."""
    t = path("dreamtime", steps=steps, dreamtime=DreamTimeSettings(**bells))
    units = {name: 1000 * value if value <= 1 else value for name, value in bells.items()}
    tails, total = {}, sum(W(j, **units) for j in range(20, 981))
    for j in range(980, 19, -1):
        tails[j] = tails.get(j + 1, 0.0) + W(j, **units) / total
    for i, chosen in enumerate(t):
        best = min(abs(tail - i / steps) for tail in tails.values())
        assert abs(tails[chosen] - i / steps) <= best + 1e-12
    assert t[0] == 980
    if steps == 1500:
        # The number of steps spent above 700 is N times the W that lies there, to within the W of one t.
        share = sum(W(j, **units) for j in range(701, 981)) / total
        assert sum(j > 700 for j in t) / steps == pytest.approx(
            share, abs=max(W(j, **units) for j in range(20, 981)) / total
        )


def test_dreamtimes_three_curves():
    schedule = build("dreamtime", "dreamtime")
    W_d, W_p, product = schedule.dreamtime
    assert all(len(curve) == 1000 for curve in schedule.dreamtime)
    assert (W_d.diff() > 0).all(), "W_d grows with t"
    assert W_d[700].item() == pytest.approx(math.sqrt((1 - BARS[700]) / BARS[700]), rel=1e-9)
    assert W_p[500].item() == W_p[650].item() == W_p[800].item() == 1
    assert W_p[400].item() == pytest.approx(math.exp(-0.5)) and W_p[980].item() == pytest.approx(math.exp(-0.18))
    assert (W_p[:501].diff() > 0).all() and (W_p[800:].diff() < 0).all()
    largest = max(W(t) for t in range(20, 981))
    assert product[20:981].max() == 1 and product[600].item() == pytest.approx(W(600) / largest, rel=1e-9)


def decay(**settings):
    steps = settings.pop("steps", 101)
    ends = {key: settings.pop(key) for key in ("t_min", "t_max", "least_t") if key in settings}
    return build("random_decay", steps=steps, rows=200, random_decay=RandomDecaySettings(**settings), **ends)


def test_random_decay_falls_as_it_is_told():
    low, high = decay(curve="linear", t_min_end=10, t_max_end=80).bounds
    assert near(low.tolist(), [20 - 10 * i / 100 for i in range(101)]) and near(
        high.tolist(), [980 - 9 * i for i in range(101)]
    )
    low, high = decay(curve="exponential", t_min_end=0.005, t_max_end=0.049).bounds
    assert (low[0], low[50], low[100]) == (20, 10, 5)
    assert near(high.tolist(), [980 * 20 ** (-i / 100) for i in range(101)])
    low, high = decay(curve="step", at=0.25).bounds
    assert low.tolist() == [20] * 101 and high.tolist() == [980] * 25 + [500] * 76
    assert decay(steps=25000).bounds[1].bincount().nonzero().flatten().tolist() == [500, 980]
    assert (decay(steps=25000).bounds[1] == 980).sum() == 5000, "ProlificDreamer's"


def test_random_decay_is_uniform_between_its_ends():
    schedule = decay(curve="linear", t_max_end=0.1)
    low, high = (int(end[90]) for end in schedule.bounds)
    assert (low, high) == (20, 980 - 792)
    t = torch.cat([schedule.timestep(90, schedule.particles) for _ in range(200)])
    assert schedule.random and t.min() == low and t.max() == high
    # 40,000 draws over 169 values: each count has mean 237 and deviation 15.
    counts = torch.bincount(t, minlength=1000)[low : high + 1]
    assert len(counts) == 169 and (counts - 40000 / 169).abs().max() < 5 * 15.4


def test_random_decay_keeps_its_ends_in_order():
    assert decay(curve="linear", t_max=0.3).bounds[1].tolist() == [300] * 101, "no rise to the default of 0.5"
    assert decay(curve="linear", t_min=0.6).bounds[1][-1] == 600
    assert decay(curve="exponential", t_min=0).bounds[0].tolist() == [0] * 101
    raised = decay(curve="linear", t_min_end=0, least_t=15)
    assert raised.bounds[0][-1] == 15 and "--schedule.random-decay.t-min-end 0" in raised.note
    for wrong in ({"t_min_end": 0.1}, {"t_max_end": 0.99}, {"t_max_end": 0.01}):
        with pytest.raises(InputError, match="cannot fall to"):
            decay(**wrong)
    for wrong in ({"t_min_end": 0}, {"t_min": 0, "t_max_end": 0}):
        with pytest.raises(InputError, match="never falls from"):
            decay(curve="exponential", **wrong)


@pytest.mark.parametrize(
    "coefficients", [(980, -960), (900, -1000, 300), (20, 0, 0, 900), (500,), (0.98, -0.96), (0, 1)]
)
def test_polynomial(coefficients):
    t = path("polynomial", steps=11, timestep_coefficients=coefficients)
    unit = 1000 if max(map(abs, coefficients)) <= 1 else 1
    assert near(t, [min(999, unit * sum(c * (i / 10) ** k for k, c in enumerate(coefficients))) for i in range(11)])


POINTS = [
    (0, 980, 50, 200, 100, 20),
    (0, 0.98, 50, 0.2, 100, 0.02),
    (0, 100, 3, 900, 7, 0),
    (0, 300),
    (0, 980, 0.5, 200, 1, 20),
    (0, 0, 0.07, 1),
]


def between(points, i, steps):
    """Value and slope by hand: the points around i."""
    at, values = points[::2], points[1::2]
    at = [a * (steps - 1) for a in at] if max(at) <= 1 else at
    k = bisect_right([a - 1e-9 for a in at], i) - 1
    if k == len(at) - 1:
        return values[k], values[k]
    return values[k], values[k] + (values[k + 1] - values[k]) * (i - at[k]) / (at[k + 1] - at[k])


@pytest.mark.parametrize("points", POINTS, ids=str)
@pytest.mark.parametrize("steps", [101, 150])
def test_points(points, steps):
    unit = 1000 if max(points[1::2]) <= 1 else 1
    for name, place in (("stepping", 0), ("piecewise_linear", 1)):
        t = path(name, steps=steps, timestep_points=points)
        assert near(t, [min(999, unit * between(points, i, steps)[place]) for i in range(steps)])
        w = build("uniform", name, steps=steps, weight_points=points).weights(torch.zeros(steps, dtype=torch.long))
        assert w.tolist() == pytest.approx([between(points, i, steps)[place] for i in range(steps)])
    assert len(set(path("stepping", steps=steps, timestep_points=points))) <= len(points) // 2


def test_points_where_they_were_put():
    assert path("stepping", steps=5, timestep_points=(0, 900, 2, 400)) == [900, 900, 400, 400, 400]
    assert path("piecewise_linear", steps=5, timestep_points=(0, 900, 2, 400)) == [900, 650, 400, 400, 400]
    assert path("stepping", steps=101, timestep_points=(0, 900, 0.07, 400)).count(900) == 7
    assert path("stepping", steps=1, timestep_points=(0, 900, 1, 400)) == [900]


def test_ddim_takes_the_samplers():
    particles = Particles(PRIOR, [""], "", 0)
    ddim = ALGORITHMS["ddim"](PRIOR, particles, AlgorithmConfig(name="ddim"), 5)
    assert path("ddim", steps=5, samplers=ddim.timesteps) == [801, 601, 401, 201, 1]


OUTSIDE = [
    ("constant", {"t": 1000}, "--schedule.t 1000: .* 0 to 999"),
    ("uniform", {"t_max": 1000}, "--schedule.t-max 1000: .* 0 to 999"),
    ("uniform", {"t_min": 900, "t_max": 0.1}, "--schedule.t-min is timestep 900, --schedule.t-max 100"),
    ("uniform", {"least_t": 80, "t_max": 0.05}, "timestep is 50; .* 80 .*--schedule.t-max"),
    ("constant", {"least_t": 80, "t": 79}, "constant: t = 79 at step 0; timesteps from 80 to 999"),
    ("polynomial", {"timestep_coefficients": (980, 40)}, "polynomial: t = 1000 at step"),
    ("polynomial", {"timestep_coefficients": (500, -1000)}, "polynomial: t = -1 at step"),
    ("polynomial", {"timestep_coefficients": (1e308, 1e308)}, "t = 1e[+]308 at step 0"),
    ("polynomial", {"timestep_coefficients": (0, 1e308, 1e308, -1e308, -1e308)}, "polynomial: t = "),
    ("stepping", {"timestep_points": (0, 980, 200, 1000)}, "stepping: t = 1000 at step 200"),
    ("piecewise_linear", {"timestep_points": (0, 980, 100, 1080)}, "piecewise_linear: t = 1000 at step 20"),
    ("random_decay", {"random_decay": RandomDecaySettings(t_max_end=1000)}, "--schedule.random-decay.t-max-end 1000"),
    ("dreamtime", {"dreamtime": DreamTimeSettings(m1=0.4)}, "m2 0.5 --schedule.dreamtime.m1 0.4: m2 ≤ m1"),
    ("dreamtime", {"t_min": 0.5, "dreamtime": DreamTimeSettings(m1=0, m2=0, s1=2)}, "W is 0 from t = 500"),
]


@pytest.mark.parametrize("name, options, message", OUTSIDE, ids=[message for *_, message in OUTSIDE])
def test_what_does_not_fit_the_prior_is_refused(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        build(name, **options)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------------------------- weights


@pytest.mark.parametrize("t", [0, 1, 20, 300, 500, 980, 999])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_weights_of_the_timestep(t, gamma):
    a = BARS[t]
    snr = a / (1 - a)
    expected = {
        "constant": 1.0,
        "dreamfusion": 1 - a,
        "fantasia3d": math.sqrt(a) * (1 - a),
        "ism": math.sqrt((1 - a) / a),
        "rfds": 1 + math.sqrt((1 - a) / a),
        "snr": min(snr, gamma) / snr,
    }
    if 20 <= t <= 980:
        expected["dreamtime"] = W(t) / max(W(j) for j in range(20, 981))
    for name, w in expected.items():
        options = {"snr_gamma": gamma} if name == "snr" else {}
        schedule = build(weight=name, **options)
        got = [schedule.weight(torch.tensor([t, 500]), step) for step in (0, 399)]
        assert torch.equal(*got) and got[0].dtype == torch.float64, "not of the step"
        assert got[0][0].item() == pytest.approx(w, rel=1e-9), name


def test_dreamtimes_weight_goes_along_where_the_range_sinks():
    """Below t_min too, w is W over the greatest W of t_min … t_max."""
    sinking = RandomDecaySettings("linear", t_min_end=0.3, t_max_end=0.4)
    schedule = build("random_decay", "dreamtime", random_decay=sinking, t_min=0.5)
    w = schedule.weight(torch.tensor([310]), 399).item()
    assert w == pytest.approx(W(310) / max(W(j) for j in range(500, 981)), rel=1e-9)
    everywhere = build("constant", "dreamtime", t=500).weight(torch.tensor([500]), 0).item()
    assert everywhere == pytest.approx(W(500) / max(W(j) for j in range(1000)), rel=1e-9)


def test_weights_of_the_step():
    for name, options, formula in (
        ("linear", {"weight_ends": (3, 0.5)}, lambda x: 3 - 2.5 * x),
        ("linear", {"weight_ends": (0, 1)}, lambda x: x),
        ("polynomial", {"weight_coefficients": (1, -2, 1)}, lambda x: (1 - x) ** 2),
        ("polynomial", {"weight_coefficients": (0.25,)}, lambda x: 0.25),
    ):
        schedule = build(weight=name, steps=21, **options)
        for step in range(21):
            w = schedule.weight(torch.tensor([30, 900]), step)
            assert w.tolist() == pytest.approx([formula(step / 20)] * 2, abs=1e-12), "not of the timestep"
        assert build(weight=name, steps=1, **options).weight(torch.tensor([30]), 0).item() == formula(0)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("polynomial", {"weight_coefficients": (1, -2)}, "w = -0.00[0-9]* at step 200"),
        ("polynomial", {"weight_coefficients": (1e308, 1e308)}, "w = inf at step"),
        ("linear", {"weight_ends": (1, -1)}, "w = -0.00[0-9]* at step 200"),
    ],
)
def test_weights_that_lead_away_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        build(weight=name, **options)


def test_weights_where_nothing_is_left_of_the_picture():
    """A checkpoint whose last ᾱ is 0: no method draws that t, where ism's weight has no limit; Min-SNR's is 1."""
    prior = GaussianPrior({"": (0, 1)})
    prior.alphas_cumprod[-1] = 0
    last = torch.tensor([999])

    def make(weight, t_max):
        return Schedule(ScheduleConfig("uniform", weight, 0.02, t_max), prior, 3)

    assert make("snr", 1).weight(last, 0).item() == 1 and make("dreamfusion", 1).weight(last, 0).item() == 1
    for weight in ("ism", "dreamtime"):
        schedule = make(weight, 1.0)
        assert schedule.t_max == 998 and schedule.weight(torch.tensor([998]), 0).isfinite().all()


# ---------------------------------------------------------------------------------------------------------------- plot


def drawn(file, color):
    """Where a plot has that colour: (rows, columns) of pixels."""
    pixels = np.asarray(Image.open(file).convert("RGB")).astype(int)
    rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
    return np.where(abs(pixels - rgb).max(2) < 30)


def test_plot_shows_t_and_w_and_dreamtimes_curves(tmp_path):
    from recording.plots import COLORS

    def plot(*arguments, **options):
        file = tmp_path / "schedule.png"
        plot_schedule(file, build(*arguments, **options))
        assert Image.open(file).size == (1200, 400)
        return {name: drawn(file, color) for name, color in COLORS.items()}

    seen = plot("linear", "linear", weight_ends=(0, 1))
    for name, falls in (("t", True), ("w", False)):
        rows, columns = seen[name]
        left, right = rows[columns < columns.min() + 9].mean(), rows[columns > columns.max() - 9].mean()
        assert columns.max() - columns.min() > 400 and abs(left - right) > 200 and (right > left) == falls
    assert all(len(seen[name][0]) == 0 for name in ("W_p", "W"))
    seen = plot("dreamtime", "dreamfusion")
    assert all(len(rows) > 200 and np.ptp(rows) > 150 for rows, _ in seen.values()), "no line is flat"
    assert seen["W"][1].min() > seen["w"][1].max() > seen["t"][1].max(), "three panels"
    assert len(plot("hifa", "dreamtime")["W"][0]) > 200
    seen = plot("random_decay", "ism", random_decay=RandomDecaySettings("linear"))
    rows, columns = seen["t"]
    assert columns.max() - columns.min() > 400
    random, one = plot("uniform", "constant", steps=1), plot("constant", "constant", t=500)
    assert abs(np.median(random["t"][0]) - np.median(one["t"][0])) <= 1, "the line is the mean of what is drawn"
    plot("constant", "linear", t=0, weight_ends=(0, 0), steps=3)
