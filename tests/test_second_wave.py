"""CFD and FSD, ASD, DSD, RFDS, FlowEdit, SDI with cached noise, and VSD's adversarial relative: against their
formulas, written out by hand, and against what each of them is in a limit."""

import math

import families
import pytest
import torch
from conftest import GaussianPrior
from test_methods import ANY, DATA, PROMPTS, SCALE, SOURCES, Row, batch, compare, delta, method
from test_methods import gradient as gradient_of

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from priors.checkpoint import Checkpoint, PriorConfig
from priors.device import per_row
from priors.files import EMBEDDED
from schedules.schedule import Schedule, ScheduleConfig

TIMES = [100, 500, 979]


def by_hand(name, formula, kind="epsilon", s=7.5, settings=None, times=TIMES, steps=1):
    """formula(row, its ε*) against the method's gradient, of the last of `steps` calls."""
    t = torch.tensor(times)
    z, images, rows = batch(t)
    algorithm = method(name, GaussianPrior(DATA, kind), "bad", s, images, settings)
    if hasattr(algorithm, "noise"):
        algorithm.noise = algorithm.noise.double()
    stays = algorithm.noise.clone() if hasattr(algorithm, "noise") else [None] * 3
    for _ in range(steps):
        gradient = algorithm.gradient(z, t, algorithm.particles, 0.0)
    for row in range(3):
        expected = formula(rows[row], stays[row])
        torch.testing.assert_close(
            gradient[row], expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item() + 1e-14
        )


@ANY
@SCALE
@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
def test_cfd(prediction_type, s, gamma):
    def formula(r, noise):
        for _ in range(2):
            noise = math.sqrt(1 - gamma) * noise + math.sqrt(gamma) * r.randn() if gamma else noise
        return r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - noise

    by_hand("cfd", formula, prediction_type, s, dict(gamma=gamma), steps=2)


def test_cfd_of_fresh_noise_is_sds():
    t = torch.tensor(TIMES)
    z, _, _ = batch(t)
    cfd = method("cfd", GaussianPrior(DATA), s=7.5, settings=dict(gamma=1.0))
    assert torch.equal(
        cfd.gradient(z, t, cfd.particles, 0.0), gradient_of(method("sds", GaussianPrior(DATA), s=7.5), z, t)
    )


@ANY
@SCALE
def test_sdi_with_cached_noise(prediction_type, s):
    def formula(r, noise):
        noise = r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t)
        return r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - noise

    by_hand("sdi", formula, prediction_type, s, dict(noise="cached"), steps=2)


def uniform(r):
    return int(torch.randint(0, 2**24, (1,), generator=r.generator)) / 2**24


@ANY
@SCALE
@pytest.mark.parametrize("shift", [0.1, 0.5, 1.0])
def test_asd(prediction_type, s, shift):
    def formula(r, _):
        noise = r.randn()
        later = min(999, r.t + int(uniform(r) * shift * max(0, r.t - 20)))
        reference = r.eps(r.y, r.noised(r.z, noise, later), later)
        return r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - reference

    by_hand("asd", formula, prediction_type, s, dict(shift=shift))


def test_asd_vanishes_where_nothing_is_shifted_and_guided():
    t = torch.tensor(TIMES)
    asd = method("asd", GaussianPrior(DATA), s=1.0, settings=dict(shift=0.0))
    assert asd.gradient(batch(t)[0], t, asd.particles, 0.0).abs().max() < 1e-12


@ANY
@SCALE
def test_dsd(prediction_type, s):
    def formula(r, noise):
        knots = [round(999 - 99.9 * k) for k in range(11)]
        later = min(999, r.t + int(uniform(r) * 0.1 * max(0, r.t - 320)))
        x = noise
        for now, then in zip(knots, knots[1:], strict=False):
            if then < later:
                break
            x = r.ddim(x, r.guided(r.y, "bad", s, x, now), now, then)
        now = min(knot for knot in knots if knot >= later)
        x = r.ddim(x, r.guided(r.y, "bad", s, x, now), now, later)
        e = r.guided(r.y, "bad", s, x, later)
        reference = r.eps(r.y, r.noised(r.z, e, later), later)
        return r.guided(r.y, "bad", s, r.noised(r.z, e, r.t), r.t) - reference

    by_hand("dsd", formula, prediction_type, s, times=[330, 500, 950])


@ANY
@SCALE
@pytest.mark.parametrize("reverse", [0.0, 1.0, 2.5])
def test_rfds(prediction_type, s, reverse):
    def formula(r, _):
        noise = r.randn()
        noise = noise + reverse * (r.eps(r.y, r.noised(r.z, noise, r.t), r.t) - noise)
        return r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - noise

    by_hand("rfds", formula, prediction_type, s, dict(reverse=reverse))


def test_rfds_without_reversal_is_sds():
    t = torch.tensor(TIMES)
    z, _, _ = batch(t)
    rfds = method("rfds", GaussianPrior(DATA), s=7.5, settings=dict(reverse=0.0))
    assert torch.equal(
        rfds.gradient(z, t, rfds.particles, 0.0), gradient_of(method("sds", GaussianPrior(DATA), s=7.5), z, t)
    )


@ANY
@pytest.mark.parametrize("name", ["flowedit", "dds"])
@pytest.mark.parametrize("s, source_s", [(13.5, 3.5), (7.5, None), (2.0, 0.0), (1.0, 1.0)])
def test_a_source_has_a_guidance_scale_of_its_own(prediction_type, name, s, source_s):
    t = torch.tensor(TIMES)
    z, images, rows = batch(t)
    particles = Particles(GaussianPrior(DATA, prediction_type), PROMPTS, "bad", 11, SOURCES, images)
    config = AlgorithmConfig(name=name, guidance_scale=s, source_guidance_scale=source_s)
    gradient = ALGORITHMS[name](particles.prior, particles, config, 50).gradient(z, t, particles, 0.0)
    for row, r in enumerate(rows):
        noise = r.randn()
        expected = r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t)
        scale = s if source_s is None else source_s
        expected = expected - r.guided(r.y_src, "bad", scale, r.noised(r.z_src, noise, r.t), r.t)
        torch.testing.assert_close(gradient[row], expected, rtol=1e-10, atol=1e-10)


@ANY
def test_flowedit_is_dds(prediction_type):
    compare("flowedit", lambda r: delta(r, 5.0, "bad", r.randn()), TIMES, prediction_type, "bad", 5.0)


def test_flowedit_is_the_papers_coupled_flow():
    """Its Euler steps of Z by hand, the velocities v = ε̂ - ẑ_0 of Z + x^src_t - z^src and of x^src_t: at each step
    Z = z^src + (1-σ) (z - z^src)."""
    z, images, rows = batch([0] * 3)
    particles = Particles(GaussianPrior(DATA, "flow"), PROMPTS, "bad", 11, SOURCES, images)
    config = AlgorithmConfig(name="flowedit", guidance_scale=13.5, source_guidance_scale=3.5)
    algorithm = ALGORITHMS["flowedit"](particles.prior, particles, config, 4)
    z, states = particles.source.clone(), [r.z_src for r in rows]

    def velocity(r, y, s, x, t, sigma):
        size = math.sqrt(r.a(t)) + math.sqrt(1 - r.a(t))  # of ᾱ's process beside the flow at the same σ/α
        noise = r.guided(y, "bad", s, x * size, t)
        return noise - (x - sigma * noise) / (1 - sigma)

    for t, after in ((800, 600), (600, 300), (300, 50), (50, None)):
        now, then = (0.0 if i is None else math.sqrt((1 - Row.a(i)) / Row.a(i)) for i in (t, after))
        z = z - (now - then) * algorithm.gradient(z, torch.full((3,), t), particles, 0.0)
        sigma, next_sigma = now / (1 + now), then / (1 + then)
        for row, r in enumerate(rows):
            x_src = (1 - sigma) * r.z_src + sigma * r.randn()
            x = states[row] + x_src - r.z_src
            V = velocity(r, r.y, 13.5, x, t, sigma) - velocity(r, r.y_src, 3.5, x_src, t, sigma)
            states[row] = states[row] + (next_sigma - sigma) * V
            expected = r.z_src + (1 - next_sigma) * (z[row] - r.z_src)
            torch.testing.assert_close(states[row], expected, rtol=1e-9, atol=1e-9)
    assert (z - particles.source).abs().min() > 1e-3


@pytest.mark.parametrize("gamma", [0.5, -0.75])
def test_vsd_that_is_driven_from_the_prior(gamma):
    """The gradient that φ descends is that of both squares."""
    t = torch.tensor(TIMES)
    z, _, rows = batch(t)
    prior = GaussianPrior(DATA)
    vsd = method("vsd", prior, "bad", 7.5, settings=dict(lora_rank=2, lora_lr=0.1, gamma=gamma))
    A, B = (dict(prior.denoiser.named_parameters())[f"to_q.lora_{part}.phi.weight"] for part in "AB")
    with torch.no_grad():
        B += 0.1 * torch.randn(B.shape, dtype=B.dtype, generator=torch.Generator().manual_seed(0))
    A_0, B_0 = A.detach().clone().requires_grad_(), B.detach().clone().requires_grad_()
    total = 0
    for r in rows:
        u = int(torch.randint(0, 1000, (1,), generator=r.generator))
        noise = r.randn()
        z_u = r.noised(r.z, noise, u)
        e = r.eps(r.y, z_u, u)
        learned = e + (z_u.flatten() @ A_0.T @ B_0.T).view_as(z_u)
        total = total + (learned - noise).square().sum() + gamma * (learned - e).square().sum()
    gradients = torch.autograd.grad(total / 12, (A_0, B_0))
    steps = []
    vsd.optimizer.step = lambda: steps.append([A.grad.clone(), B.grad.clone()])
    vsd.update(z, t, vsd.particles, 0.0)
    for found, expected in zip(steps[0], gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@ANY
@SCALE
def test_lods(prediction_type, s):
    """Before anything is learnt it is SDS, divided by s."""
    noise_of = {}

    def formula(r, _):
        noise = noise_of.setdefault(id(r), r.randn())
        return (r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - noise) / (s or 1)

    by_hand("lods", formula, prediction_type, s)


def test_lods_leads_where_sds_leads():
    """Before anything is learnt; its division by s is no part of where the gradient leads."""
    t = torch.tensor(TIMES)
    z, _, _ = batch(t)
    ends = []
    for name in ("sds", "lods"):
        algorithm = method(name, GaussianPrior(DATA), "bad", 7.5)
        ends.append(algorithm.pseudo_gt(z, t, algorithm.gradient(z, t, algorithm.particles, 0.0)))
        torch.testing.assert_close(ends[-1], algorithm.predictions["x0"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


@ANY
def test_lods_learns_what_the_picture_is(prediction_type):
    """The gradient of ∅*, and then that of the picture with what it has learnt."""
    t = torch.tensor(TIMES)
    z, _, rows = batch(t)
    lods = method("lods", GaussianPrior(DATA, prediction_type), "bad", 7.5, settings=dict(lr=0.1))
    (learnt,), steps, step = lods.embeddings, [], lods.optimizer.step
    lods.optimizer.step = lambda: (steps.append(learnt.grad.clone()), step())
    lods.update(z, t, lods.particles, 0.0)
    for row, r in enumerate(rows):
        m, s = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in DATA["bad"])
        u, noise = int(torch.randint(0, 1000, (1,), generator=r.generator)), r.randn()
        a = Row.a(u)
        z_u = r.noised(r.z, noise, u)
        said = math.sqrt(1 - a) * (z_u - math.sqrt(a) * m) / (a * s**2 + 1 - a)
        expected = torch.stack(torch.autograd.grad((said - noise).square().sum(), (m, s)))
        torch.testing.assert_close(steps[0][row, 0, 1:], expected, rtol=1e-8, atol=1e-10)
    gradient = lods.gradient(z, t, lods.particles, 0.1)
    for row, r in enumerate(rows):
        _, m, s = learnt[row, 0].tolist()
        a, noise = Row.a(r.t), r.randn()
        z_t = r.noised(r.z, noise, r.t)
        without = math.sqrt(1 - a) * (z_t - math.sqrt(a) * m) / (a * s**2 + 1 - a)
        expected = (without + 7.5 * (r.eps(r.y, z_t, r.t) - without) - noise) / 7.5
        torch.testing.assert_close(gradient[row], expected, rtol=1e-9, atol=1e-10)


def test_lods_leaves_the_prior_as_it_was():
    prior = embedded()
    particles = Particles(prior, ["a red apple", "a snowman"])
    z, t = torch.zeros(2, *prior.latent_shape), torch.tensor([300, 600])
    before = prior.predict_noise(z, t, particles.y_empty)
    for _ in range(2):
        config = AlgorithmConfig(name="lods", guidance_scale=7.5, lods=ALGORITHMS["lods"].Settings(lr=0.01))
        lods = ALGORITHMS["lods"](prior, particles, config, 10)
        assert torch.equal(prior.predict_noise(z, t, lods.y), before)
        lods.update(z, t, particles, 0.0)
        assert not torch.equal(prior.predict_noise(z, t, lods.y), before)
        assert torch.equal(prior.predict_noise(z, t, particles.y_empty), before)


def test_vsd_against_the_particles_themselves():
    """Their distribution is a prior, whose noise is known: a mixture of points for each prompt."""
    t = torch.tensor([300, 300, 700])
    z, _, rows = batch(t)
    prior = GaussianPrior(DATA)
    vsd = method("vsd", prior, "bad", 7.5, settings=dict(phi="particles"))
    vsd.particles.prompts = ["cat", "cat", "dog"]
    gradient = vsd.gradient(z, t, vsd.particles, 0.0)
    for row, others in enumerate([(0, 1), (0, 1), (2,)]):
        r = rows[row]
        z_t = r.noised(r.z, r.randn(), r.t)
        a = Row.a(r.t)
        x = z_t.clone().requires_grad_()
        density = torch.stack([-(x - math.sqrt(a) * z[j]).square().sum() / (2 * (1 - a)) for j in others])
        (score,) = torch.autograd.grad(density.logsumexp(0), x)
        expected = r.guided(r.y, "bad", 7.5, z_t, r.t) + math.sqrt(1 - a) * score
        torch.testing.assert_close(gradient[row], expected, rtol=1e-9, atol=1e-10)


def test_a_restored_phi_and_its_optimizer_go_together(monkeypatch):
    """The denoiser, and the LoRA in it, move to the device at the first step; here they become float64 instead."""
    config = AlgorithmConfig(name="vsd", guidance_scale=2.0, vsd=ALGORITHMS["vsd"].Settings())
    states = []
    for _ in range(2):
        prior = embedded()
        particles = Particles(prior, ["a red apple"])
        vsd = ALGORITHMS["vsd"](prior, particles, config, 10)
        if states:
            monkeypatch.setattr(prior.denoiser, "to", lambda device, denoiser=prior.denoiser: denoiser.double())
            vsd.load_state_dict(states[0])
            prior.free_text_encoders()
        else:
            vsd.update(torch.zeros(1, *prior.latent_shape), torch.tensor([300]), particles, 0.5)
        states.append(vsd.state_dict())
    assert vsd.optimizer.state
    for parameter, values in vsd.optimizer.state.items():
        assert parameter.dtype == values["exp_avg"].dtype == torch.float64


@pytest.mark.parametrize(
    "settings", [dict(phi="full", full_lr=3e-4), dict(lora_layers="all", lora_lr=1e-3)], ids=["full", "all layers"]
)
def test_a_stronger_phi_learns_and_leaves_the_prior_as_it_was(settings):
    prior = embedded()
    particles = Particles(prior, ["a red apple", "a snowman"])
    z, t = torch.zeros(2, *prior.latent_shape), torch.tensor([300, 600])
    before = prior.predict_noise(z, t, particles.y)
    config = AlgorithmConfig(name="vsd", guidance_scale=2.0, vsd=ALGORITHMS["vsd"].Settings(**settings))
    vsd = ALGORITHMS["vsd"](prior, particles, config, 10)
    with vsd.phi.active():
        assert torch.equal(prior.predict_noise(z, t, particles.y), before)
    start = [value.detach().clone() for value in vsd.parameters()]
    vsd.update(z, t, particles, 0.5)
    furthest = max((a - b).abs().max().item() for a, b in zip(start, vsd.parameters(), strict=True))
    assert furthest == pytest.approx(settings.get("full_lr", settings.get("lora_lr")), rel=0.01)  # Adam's first step
    vsd.update(z, t, particles, 0.5)  # One factor of a LoRA begins at 0.
    changed = sum(not torch.equal(a, b) for a, b in zip(start, vsd.parameters(), strict=True))
    assert changed > 0.9 * len(start)
    assert torch.equal(prior.predict_noise(z, t, particles.y), before)
    with vsd.phi.active():
        assert not torch.equal(prior.predict_noise(z, t, particles.y), before)


# ------------------------------------------------------------------------------------------------- they are sampling


def embedded():
    return Checkpoint(PriorConfig(path=str(EMBEDDED)))


@pytest.mark.parametrize("kind", ["embedded", "sd-v", "sd3"])
@pytest.mark.parametrize("name", ["cfd", "sdi"])
def test_fsd_and_cached_sdi_are_ddim_sampling(kind, name, tmp_path):
    """With SGD at rate 1 and their weights, step for step: x_t/√ᾱ_t = z + λ_t ε*, or z + λ_t κ."""
    prior = (
        embedded() if kind == "embedded" else Checkpoint(PriorConfig(path=str(families.save(kind, tmp_path / kind))))
    )
    particles = Particles(prior, ["a red apple", "a snowman"])
    settings = {"sdi": dict(noise="cached"), "cfd": dict(gamma=0.0)}[name]
    config = AlgorithmConfig(name=name, guidance_scale=3.0, **{name: ALGORITHMS[name].Settings(**settings)})
    algorithm = ALGORITHMS[name](prior, particles, config, 20)
    t = prior.sampling_timesteps(20)[1:]  # Where a flow begins nothing of z is left.
    points = [float(x) for pair in enumerate(t.tolist()) for x in pair]
    weight = {"cfd": "ddim", "sdi": "ism"}[name]
    schedule = Schedule(ScheduleConfig("stepping", weight, timestep_points=points), prior, len(t))
    start = torch.Generator().manual_seed(3)
    z = 0.3 * torch.randn(2, *prior.latent_shape, generator=start)
    x = prior.add_noise(z, algorithm.noise, t[:1].expand(2))
    for step, now in enumerate(t):
        now = now.expand(2)
        assert torch.equal(schedule.timestep(step, particles), now)
        noise = prior.guided_noise(x, now, particles.y, particles.y_negative, 3.0)
        clean = prior.predict_clean(x, noise, now)
        z = z - per_row(schedule.weight(now, step), z) * algorithm.gradient(z, now, particles, 0.0)
        if step + 1 < len(t):
            x = prior.add_noise(clean, noise, t[step + 1].expand(2))
            expected = x if name == "cfd" else prior.add_noise(clean, algorithm.noise, t[step + 1].expand(2))
            found = prior.add_noise(z, algorithm.noise, t[step + 1].expand(2))
            assert (found - expected).norm() / expected.norm() < 1e-5, step
    assert (z - clean).norm() / clean.norm() < 1e-4


def test_the_weight_of_a_ddim_step():
    prior = GaussianPrior(DATA)
    schedule = Schedule(ScheduleConfig("linear", "ddim", 0.1, 0.9), prior, 5)
    a = [Row.a(t) for t in (900, 700, 500, 300, 100)]
    noise = [math.sqrt((1 - x) / x) for x in a]
    expected = [high - low for high, low in zip(noise, [*noise[1:], 0.0], strict=True)]
    particles = Particles(prior, ["cat"])
    found = [schedule.weight(schedule.timestep(step, particles), step).item() for step in range(5)]
    assert found == pytest.approx(expected, rel=1e-9)
