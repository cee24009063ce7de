"""What any method can be given: rescaled guidance, Perp-Neg, repulsion, several updates a step, a learning rate that
changes."""

import math

import pytest
import torch
from conftest import GaussianPrior
from test_methods import ANY, DATA, PROMPTS, SEED, Row, batch

import sds2d
from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles

TIMES = torch.tensor([100, 500, 979])


def make(name="sds", prompts=PROMPTS, kind="epsilon", **options):
    prior = GaussianPrior(DATA, kind)
    particles = Particles(prior, prompts, "bad", SEED)
    return ALGORITHMS[name](prior, particles, AlgorithmConfig(name=name, guidance_scale=7.5, **options), 10)


@ANY
def test_rescaled_guidance(prediction_type):
    """Of what the network says: ε, or v."""
    z, _, rows = batch(TIMES)
    gradient = make(kind=prediction_type, guidance_rescale=0.7).gradient(z, TIMES, 0.0)
    for row, r in enumerate(rows):
        noise, a = r.randn(), Row.a(r.t)
        z_t = r.noised(r.z, noise, r.t)

        def says(e, z_t=z_t, a=a):
            clean = (z_t - math.sqrt(1 - a) * e) / math.sqrt(a)
            return e if prediction_type == "epsilon" else math.sqrt(a) * e - math.sqrt(1 - a) * clean

        guided, text = says(r.guided(r.y, "bad", 7.5, z_t, r.t)), says(r.eps(r.y, z_t, r.t))
        output = 0.7 * guided * text.std() / guided.std() + 0.3 * guided
        e = output if prediction_type == "epsilon" else math.sqrt(a) * output + math.sqrt(1 - a) * z_t
        torch.testing.assert_close(gradient[row], e - noise, rtol=1e-9, atol=1e-10)


def test_rescaled_guidance_has_the_contrast_of_the_prompt_alone():
    z, _, _ = batch(TIMES)
    algorithm = make(guidance_rescale=1.0)
    alone = algorithm.prior.predict_noise(z, TIMES, algorithm.particles.text)
    found = algorithm.guided_noise(z, TIMES)
    torch.testing.assert_close(found.std((1, 2, 3)), alone.std((1, 2, 3)), rtol=1e-9, atol=0)


@ANY
def test_perp_neg(prediction_type):
    z, _, rows = batch(TIMES)
    options = dict(perp_neg_prompts=("fish", ""), perp_neg_weights=(-1.5, -0.4))
    gradient = make(kind=prediction_type, **options).gradient(z, TIMES, 0.0)
    for row, r in enumerate(rows):
        noise = r.randn()
        z_t = r.noised(r.z, noise, r.t)
        base = r.eps("bad", z_t, r.t)
        plus = r.eps(r.y, z_t, r.t) - base
        total = plus.clone()
        for y, weight in (("fish", -1.5), ("", -0.4)):
            e = r.eps(y, z_t, r.t) - base
            total += weight * (e - (e * plus).sum() / (plus * plus).sum() * plus)
        torch.testing.assert_close(gradient[row], base + 7.5 * total - noise, rtol=1e-8, atol=1e-9)


def test_perp_neg_of_the_prompt_itself_changes_nothing():
    z, _, _ = batch(TIMES)
    options = dict(perp_neg_prompts=("cat",), perp_neg_weights=(-3.0,))
    plain, with_it = (make(prompts=["cat"] * 3, **given).gradient(z, TIMES, 0.0) for given in ({}, options))
    torch.testing.assert_close(with_it, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["svgd", "rsd"])
def test_repulsion(kind):
    """Pair by pair, with the two prompts apart."""
    prompts = ["cat", "dog", "cat", "cat", "dog", "dog"]
    t = torch.tensor([100, 500, 979, 300, 300, 700])
    z = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = make(prompts=prompts).gradient(z, t, 0.0)
    algorithm = make(prompts=prompts, repulsion=kind, repulsion_scale=0.7)
    found = algorithm.repelled(algorithm.gradient(z, t, 0.0), t)
    z_t = algorithm.noised["x0"]
    for rows in ([0, 2, 3], [1, 4, 5]):
        square = {(i, j): (z_t[i] - z_t[j]).square().sum().item() for i in rows for j in rows}
        median = sorted(square[i, j] for i in rows for j in rows if i < j)[1]
        for i in rows:
            if kind == "svgd":
                gamma = math.log(4) / median
                k = {j: math.exp(-gamma * square[i, j]) for j in rows}
                expected = sum(k[j] * plain[j] - 0.7 * 2 * gamma * k[j] * (z_t[i] - z_t[j]) for j in rows) / 3
            else:
                h = median / math.log(2)
                k = {j: math.exp(-square[i, j] / h) for j in rows if j != i}
                force = sum(2 * k[j] / h * (z_t[i] - z_t[j]) for j in k) / sum(k.values())
                expected = plain[i] - 0.7 * math.sqrt(1 - Row.a(int(t[i]))) * force
            torch.testing.assert_close(found[i], expected, rtol=1e-10, atol=1e-10)


def final(*flags):
    """The latents after three steps of SGD on a Gaussian prior."""
    given = ["--rep.optimizer", "sgd", "--rep.lr", "0.1", "--schedule.timestep", "constant", "--schedule.t", "500"]
    given += ["--schedule.weight", "constant", "--algo.guidance-scale", "7.5", "--steps", "3", "--rep.init-std", "1"]
    config = sds2d.parse([*given, "--prompt", "cat", "--particles", "4", *flags])
    parts = sds2d.build(config, GaussianPrior(DATA))
    taken = [sds2d.distill(*parts, step) for step in range(3)]
    return parts, [z for z, *_ in taken] + [parts[1].latents().detach()], [gradient for *_, gradient in taken]


@pytest.mark.parametrize("kind", ["svgd", "rsd"])
def test_repelled_particles_end_farther_apart(kind):
    def spread(z):
        return (z[:, None] - z[None]).square().sum().item()

    assert spread(final("--algo.repulsion", kind, "--algo.repulsion-scale", "20")[1][-1]) > 2 * spread(final()[1][-1])


def test_updates_of_a_step_share_their_noise():
    """SDS of a Gaussian prior is linear in z, so its steps at one t and ε can be written out."""
    _, z, _ = final("--algo.updates-per-step", "3")
    _, plain, first = final()
    a = Row.a(500)
    slope = sum(s * math.sqrt(a * (1 - a)) / (a * DATA[y][1] ** 2 + 1 - a) for y, s in (("cat", 7.5), ("", -6.5)))
    start, moved, g = plain[0], 0, first[0].double()
    for _ in range(2):  # A step's latents are those of its last update: two lie before.
        moved, g = moved + 0.1 * g, g - 0.1 * slope * g
    torch.testing.assert_close((start - z[0]).double(), moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warm_up", [0, 1])
def test_learning_rate_schedules(name, warm_up):
    _, z, gradients = final("--rep.lr-schedule", name, "--rep.lr-warm-up", str(warm_up))
    for step in range(3):
        x = max(0, step - warm_up) / (3 - warm_up)
        factor = {"constant": 1, "linear": 1 - x, "cosine": 0.5 + 0.5 * math.cos(math.pi * x)}[name]
        factor *= 0.5 if warm_up and step == 0 else 1
        torch.testing.assert_close(z[step] - z[step + 1], 0.1 * factor * gradients[step], rtol=1e-4, atol=1e-5)
