"""Every method against its formula, written out here with its own arithmetic, on a prior whose prediction is known
exactly."""

import math

import pytest
import torch
from conftest import GaussianPrior

from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.lora import add_lora
from algorithms.particles import Particles
from algorithms.pds import posterior_coefficients
from priors.prior import Prior, PriorConfig

WORDS = ", oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, noisy, malformed"
SHARP = ", detailed high resolution, high quality, sharp"
P_NEG = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy"
DATA = {
    "": (0.3, 0.5),
    "cat": (1.5, 0.7),
    "dog": (-2.0, 0.4),
    "bad": (-0.4, 0.9),
    "fish": (0.8, 0.6),
    P_NEG: (0.1, 1.1),
    "cat" + WORDS: (1.1, 0.2),
    "dog" + WORDS: (-1.2, 0.3),
    "cat" + SHARP: (1.7, 0.6),
    "dog" + SHARP: (-2.2, 0.5),
}
PROMPTS, SOURCES = ["cat", "dog", "cat"], ["fish", "cat", "fish"]
SEED = 11


class Row:
    """One particle's arithmetic by hand: scalars and (1, 2, 2) tensors, nothing from the project."""

    def __init__(self, row, t):
        self.y, self.y_src, self.t = PROMPTS[row], SOURCES[row], int(t[row])
        draw = torch.Generator().manual_seed(5)
        self.z = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=draw)[row]
        self.images = torch.rand(3, 3, 2, 2, dtype=torch.float64, generator=draw)
        self.z_src = self.images[row].mean(0, keepdim=True)
        self.generator = torch.Generator().manual_seed(SEED + row)

    def randn(self, *shape):
        return torch.randn(*(shape or (1, 2, 2)), generator=self.generator).double()

    @staticmethod
    def a(t):
        """ᾱ_t as a running product."""
        product = 1.0
        for j in range(t + 1):
            product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * j / 999) ** 2
        return product

    def eps(self, y, z_t, t):
        m, s = DATA[y]
        a = self.a(t)
        return math.sqrt(1 - a) * (z_t - math.sqrt(a) * m) / (a * s**2 + 1 - a)

    def guided(self, y, y_neg, s, z_t, t):
        return self.eps(y_neg, z_t, t) + s * (self.eps(y, z_t, t) - self.eps(y_neg, z_t, t))

    def noised(self, z, noise, t):
        return math.sqrt(self.a(t)) * z + math.sqrt(1 - self.a(t)) * noise

    def ddim(self, z, e, t, to):
        clean = (z - math.sqrt(1 - self.a(t)) * e) / math.sqrt(self.a(t))
        return math.sqrt(self.a(to)) * clean + math.sqrt(1 - self.a(to)) * e


def batch(t):
    rows = [Row(row, t) for row in range(3)]
    return torch.stack([row.z for row in rows]), rows[0].images, rows


def method(name, prior, negative="", s=None, images=None, settings=None, steps=50):
    """The method on the three rows, its settings from keyword arguments."""
    edit = dict(source_prompts=SOURCES, source_images=images) if ALGORITHMS[name].edits else {}
    particles = Particles(prior, PROMPTS, negative, SEED, **edit)
    own = {name: ALGORITHMS[name].Settings(**settings)} if settings else {}
    return ALGORITHMS[name](prior, particles, AlgorithmConfig(name=name, guidance_scale=s, **own), steps)


def compare(name, by_hand, t, prediction_type, negative="", s=None, settings=None, progress=0.0, steps=50):
    t = torch.tensor(t)
    z, images, rows = batch(t)
    algorithm = method(name, GaussianPrior(DATA, prediction_type), negative, s, images, settings, steps)
    gradient = algorithm.gradient(z, t, progress)
    for row in range(3):
        expected = by_hand(rows[row])
        assert expected.abs().max() > 1e-5, "a formula of zeros tests nothing"
        torch.testing.assert_close(gradient[row], expected, rtol=1e-10, atol=1e-10 * expected.abs().max().item())


ANY = pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
SCALE = pytest.mark.parametrize("s", [0.0, 1.0, 7.5, 100.0])
NEGATIVE = pytest.mark.parametrize("negative", ["", "bad"])
TIMES = pytest.mark.parametrize("t", [[100, 500, 979], [999, 199, 201]], ids=str)


@ANY
@SCALE
@NEGATIVE
@TIMES
def test_sds(prediction_type, s, negative, t):
    def by_hand(r):
        noise = r.randn()
        return r.guided(r.y, negative, s, r.noised(r.z, noise, r.t), r.t) - noise

    compare("sds", by_hand, t, prediction_type, negative, s)


@ANY
@TIMES
@pytest.mark.parametrize("w2_end", [None, 0.1])
def test_csd(prediction_type, t, w2_end):
    def without(r):
        z_t = r.noised(r.z, r.randn(), r.t)
        return r.eps(r.y, z_t, r.t) - r.eps("", z_t, r.t)

    def with_negative(r):
        w1, w2 = 1.3, 0.5 if w2_end is None else 0.5 - 0.4 * 0.25
        z_t = r.noised(r.z, r.randn(), r.t)
        return w1 * r.eps(r.y, z_t, r.t) + (w2 - w1) * r.eps("", z_t, r.t) - w2 * r.eps("bad", z_t, r.t)

    compare("csd", without, t, prediction_type, settings=dict(w2_end=w2_end), progress=0.25)
    compare("csd", with_negative, t, prediction_type, "bad", settings=dict(w1=1.3, w2_end=w2_end), progress=0.25)


@ANY
@SCALE
@NEGATIVE
@TIMES
def test_nfsd(prediction_type, s, negative, t):
    def by_hand(r):
        z_t = r.noised(r.z, r.randn(), r.t)
        empty = r.eps("", z_t, r.t)
        delta_D = empty if r.t < 200 else empty - r.eps(negative or P_NEG, z_t, r.t)
        return delta_D + s * (r.eps(r.y, z_t, r.t) - empty)

    compare("nfsd", by_hand, t, prediction_type, negative, s)


@ANY
@SCALE
@TIMES
def test_bridge(prediction_type, s, t):
    def first(r):
        noise = r.randn()
        return r.guided(r.y, "bad", s, r.noised(r.z, noise, r.t), r.t) - noise

    def second(r):
        z_t = r.noised(r.z, r.randn(), r.t)
        return s * (r.eps(r.y + SHARP, z_t, r.t) - r.eps(r.y + WORDS, z_t, r.t))

    compare("bridge", first, t, prediction_type, "bad", s, progress=0.49)
    if s:
        compare("bridge", second, t, prediction_type, "bad", s, progress=0.5)


def delta(r, s, negative, noise):
    target = r.guided(r.y, negative, s, r.noised(r.z, noise, r.t), r.t)
    return target - r.guided(r.y_src, negative, s, r.noised(r.z_src, noise, r.t), r.t)


@ANY
@SCALE
@NEGATIVE
@TIMES
def test_dds(prediction_type, s, negative, t):
    compare("dds", lambda r: delta(r, s, negative, r.randn()), t, prediction_type, negative, s)


@ANY
@SCALE
@NEGATIVE
@TIMES
@pytest.mark.parametrize(
    "num_inference_steps, posterior", [(500, "authors"), (500, "exact"), (1000, "authors"), (50, "authors")]
)
def test_pds(prediction_type, s, negative, t, num_inference_steps, posterior):
    """g = ζ(z; y) - ζ(z^src; y^src) from the definition of ζ, its noise ε' and all."""

    def by_hand(r):
        below = r.t - 1000 // num_inference_steps
        noise, noise_below = r.randn(), torch.randn(1, 2, 2, dtype=torch.float64)
        a, a_below = r.a(r.t), r.a(below)
        alpha = a / (a_below if posterior == "exact" else r.a(r.t - 1))
        beta = 1 - alpha

        def zeta(z, y):
            z_t = r.noised(z, noise, r.t)
            e = r.guided(y, negative, s, z_t, r.t)
            clean = (z_t - math.sqrt(1 - a) * e) / math.sqrt(a)
            mean = math.sqrt(a_below) * beta / (1 - a) * clean + math.sqrt(alpha) * (1 - a_below) / (1 - a) * z_t
            return (r.noised(z, noise_below, below) - mean) / math.sqrt((1 - a_below) / (1 - a) * beta)

        return zeta(r.z, r.y) - zeta(r.z_src, r.y_src)

    compare(
        "pds",
        by_hand,
        t,
        prediction_type,
        negative,
        s,
        dict(num_inference_steps=num_inference_steps, posterior=posterior),
    )


def test_pds_coefficients_are_the_table():
    alphas_cumprod = GaussianPrior(DATA).alphas_cumprod
    table = {
        50: (0.66425, 0.15431),
        200: (0.14049, 0.09194),
        500: (0.03224, 0.08212),
        800: (0.00968, 0.09618),
        950: (0.00488, 0.10724),
    }
    for t, (psi, chi) in table.items():
        ours = posterior_coefficients(alphas_cumprod, torch.tensor([t]), 2, "authors")
        assert (round(ours[0].item(), 5), round(ours[1].item(), 5)) == (psi, chi)
    for stride, posterior in ((2, "exact"), (1, "authors")):
        assert (posterior_coefficients(alphas_cumprod, torch.arange(2, 1000), stride, posterior)[0] == 0).all()


@ANY
@pytest.mark.parametrize("t", [[80, 500, 979], [999, 281, 180]], ids=str)
@pytest.mark.parametrize(
    "settings, delta_T",
    [({}, 80), (dict(max_steps=1), 80), (dict(delta_s=33, delta_t_start=40), 50), (dict(delta_t=20), 20)],
)
def test_ism(prediction_type, t, settings, delta_T):
    """progress is ¼: an interval that starts at 40 and ends at 80 is at 50."""

    def by_hand(r):
        s_t, delta_S = r.t - delta_T, settings.get("delta_s", 200)
        now, noise = max(s_t - settings.get("max_steps", 5) * delta_S, 0), r.randn()
        z = r.noised(r.z, noise, now) if now else r.z
        while now < s_t:
            above = min(now + delta_S, s_t)
            z = r.ddim(z, r.eps("", z, now), now, above)
            now = above
        e_s = r.eps("", z, s_t)
        return r.guided(r.y, "bad", 7.5, r.ddim(z, e_s, s_t, r.t), r.t) - e_s

    compare("ism", by_hand, t, prediction_type, "bad", 7.5, settings, progress=0.25)


@ANY
@pytest.mark.parametrize("t", [[80, 500, 979], [999, 100, 101]], ids=str)
@pytest.mark.parametrize(
    "settings",
    [{}, dict(eta=0.0), dict(inversion_steps=3, inversion_guidance_scale=2.0, eta=1.0), dict(inversion_steps=60)],
)
def test_sdi(prediction_type, t, settings):
    def by_hand(r):
        n, s_inv, eta = (
            settings.get("inversion_steps", 10),
            settings.get("inversion_guidance_scale", -7.5),
            settings.get("eta", 0.3),
        )
        stops = [round(k * 1000 / n) for k in range(n + 1) if round(k * 1000 / n) < r.t] + [r.t]
        z, xi = r.z, r.randn(n, 1, 2, 2)
        for k, (low, high) in enumerate(zip(stops, stops[1:], strict=False)):
            a, b = r.a(low), r.a(high)
            sigma = math.sqrt((1 - a) / (1 - b) * (1 - b / a))
            z = r.ddim(z, r.guided(r.y, "bad", s_inv, z, low), low, high) + eta * sigma * xi[k]
        e_inv = (z - math.sqrt(r.a(r.t)) * r.z) / math.sqrt(1 - r.a(r.t))
        return r.guided(r.y, "bad", 7.5, z, r.t) - e_inv

    compare("sdi", by_hand, t, prediction_type, "bad", 7.5, settings)


@ANY
@SCALE
def test_ddim(prediction_type, s):
    def by_hand(r):
        return r.z - r.ddim(r.z, r.guided(r.y, "bad", s, r.z, r.t), r.t, max(r.t - 20, 0))

    for t in (981, 501, 1):
        compare("ddim", by_hand, [t] * 3, prediction_type, "bad", s)


@ANY
@SCALE
def test_sdedit(prediction_type, s):
    """30 steps at a strength of 0.6 are the last of 50: the source noised to t = 581, then DDIM."""

    def first(r):
        z = r.noised(r.z, r.randn(), r.t)
        return r.z - r.ddim(z, r.guided(r.y, "bad", s, z, r.t), r.t, r.t - 20)

    def later(r):
        return r.z - r.ddim(r.z, r.guided(r.y, "bad", s, r.z, r.t), r.t, max(r.t - 20, 0))

    compare("sdedit", first, [581] * 3, prediction_type, "bad", s, steps=30)
    for t in (561, 1):
        compare("sdedit", later, [t] * 3, prediction_type, "bad", s, progress=0.5, steps=30)
    sdedit = method("sdedit", GaussianPrior(DATA), s=1.0, images=batch([0] * 3)[1], steps=30)
    assert sdedit.timesteps.tolist() == list(range(581, 0, -20))


@ANY
def test_vsd(prediction_type):
    """The first gradient, the LoRA's first AdamW step, and the gradient after it."""
    t = torch.tensor([100, 500, 979])
    z, _, rows = batch(t)
    prior = GaussianPrior(DATA, prediction_type)
    vsd = method("vsd", prior, "bad", 7.5, settings=dict(lora_rank=2, lora_lr=0.1))
    first = vsd.gradient(z, t, 0.0)
    for row, r in enumerate(rows):
        z_t = r.noised(r.z, r.randn(), r.t)
        expected = 6.5 * (r.eps(r.y, z_t, r.t) - r.eps("bad", z_t, r.t))
        torch.testing.assert_close(first[row], expected, rtol=1e-10, atol=1e-10)

    A, B = (dict(prior.denoiser.named_parameters())[f"to_q.lora_{part}.phi.weight"] for part in "AB")
    A_before = A.detach().clone()
    assert A.dtype == torch.float64 and A.shape == (2, 4) and (B == 0).all()
    vsd.update(z, torch.tensor([500] * len(z)), 0.0)
    total = torch.zeros(4, 2, dtype=torch.float64)
    for r in rows:
        u = int(torch.randint(0, 1000, (1,), generator=r.generator))
        noise = r.randn()
        z_u, a = r.noised(r.z, noise, u), r.a(u)
        e = r.eps(r.y, z_u, u)
        if prediction_type == "epsilon":
            error = e - noise
        else:
            clean = (z_u - math.sqrt(1 - a) * e) / math.sqrt(a)
            error = math.sqrt(a) * e - math.sqrt(1 - a) * clean - (math.sqrt(a) * noise - math.sqrt(1 - a) * r.z)
        total += 2 * torch.outer(error.flatten(), A_before @ z_u.flatten()) / 12  # the mean over 3 rows × 4 elements
    torch.testing.assert_close(B.detach(), -0.1 * total / (total.abs() + 1e-8), rtol=1e-7, atol=1e-9)
    assert torch.equal(A.detach(), A_before), "its gradient is 0 while B is"

    second = vsd.gradient(z, t, 0.0)
    for row, r in enumerate(rows):
        z_t, a = r.noised(r.z, r.randn(), r.t), r.a(r.t)
        lora = (B @ A @ z_t.flatten()).detach().view(1, 2, 2) * (1 if prediction_type == "epsilon" else math.sqrt(a))
        expected = r.guided(r.y, "bad", 7.5, z_t, r.t) - r.eps(r.y, z_t, r.t) - lora
        torch.testing.assert_close(second[row], expected, rtol=1e-10, atol=1e-10)


def test_one_call_of_the_network_where_the_method_allows(monkeypatch):
    """Rows of the network's calls at one step, for B = 3."""
    calls = []

    def count(name, t, negative="", **settings):
        t = torch.tensor(t)
        z, images, _ = batch(t)
        prior = GaussianPrior(DATA)
        network = prior.model_output
        monkeypatch.setattr(
            prior, "model_output", lambda z_t, t, text: (calls.append(len(z_t)), network(z_t, t, text))[1]
        )
        algorithm = method(name, prior, negative, 7.5, images, settings)
        calls.clear()
        algorithm.gradient(z, t, 0.0)
        algorithm.update(z, torch.tensor([500] * len(z)), 0.0)
        return list(calls)

    same = [500] * 3
    assert (
        count("sds", same)
        == count("csd", same)
        == count("bridge", same)
        == count("ddim", same)
        == count("sdedit", same)
        == [6]
    )
    assert count("nfsd", same) == count("csd", same, "bad") == [9]
    assert count("nfsd", same, negative_prompt="") == [6], "p_neg is ∅: the same question twice"
    assert count("sdi", same, inversion_guidance_scale=0) == [3] * 5 + [6], (
        "guidance 0 asks for the negative prompt alone"
    )
    assert count("dds", same) == count("pds", same) == [12]
    assert count("vsd", same) == [6, 3, 3] and count("vsd", same, lora_updates=3, lora_particles=2) == [6, 3, 2, 2, 2]
    assert count("ism", same) == [3, 3, 3, 3, 6], "0 → 200 → 400 → 420 → 500, and the guided one"
    assert count("ism", [80, 81, 480]) == [3, 3, 3, 6], "as many as the particle with the longest way"
    assert count("sdi", same) == [6] * 5 + [6] and count("sdi", [20, 80, 101]) == [6] * 2 + [6]


def test_timesteps_that_a_method_can_not_take():
    prior = GaussianPrior(DATA)
    assert method("ism", prior, s=7.5).min_t == 80
    assert method("ism", prior, s=7.5, settings=dict(delta_t_start=100)).min_t == 100
    assert method("pds", prior, s=7.5, images=batch(torch.zeros(3))[1]).min_t == 2
    assert (
        method("pds", prior, s=7.5, images=batch(torch.zeros(3))[1], settings=dict(num_inference_steps=501)).min_t == 2
    )
    with pytest.raises(IndexError):
        method("ism", prior, s=7.5).gradient(torch.zeros(3, 1, 2, 2), torch.tensor([500, 79, 500]), 0.0)
    for name, least in (("ism", 80), ("sdi", 0), ("sds", 0)):
        algorithm = method(name, prior, s=7.5)
        for t in (least, least + 1, 998, 999):
            assert algorithm.gradient(torch.ones(3, 1, 2, 2), torch.full((3,), t), 0.0).isfinite().all()


def test_equal_prompts_and_an_untouched_image_give_nothing():
    images = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    for name, settings in (("dds", None), ("pds", None), ("pds", dict(posterior="exact"))):
        prior = GaussianPrior(DATA)
        particles = Particles(prior, PROMPTS, "bad", 0, PROMPTS, images)
        own = {name: ALGORITHMS[name].Settings(**settings)} if settings else {}
        algorithm = ALGORITHMS[name](prior, particles, AlgorithmConfig(name=name, guidance_scale=100.0, **own), 50)
        for t in (2, 50, 500, 999):
            assert (algorithm.gradient(images.mean(1, keepdim=True), torch.full((3,), t), 0.0) == 0).all()


def test_pds_with_the_exact_posterior_is_dds():
    t = torch.tensor([30, 500, 950])
    z, images, _ = batch(t)
    prior = GaussianPrior(DATA)
    pds = method("pds", prior, s=7.5, images=images, settings=dict(posterior="exact")).gradient(z, t, 0.0)
    dds = method("dds", prior, s=7.5, images=images).gradient(z, t, 0.0)
    chi = posterior_coefficients(prior.alphas_cumprod, t, 2, "exact")[1]
    torch.testing.assert_close(pds, chi.view(3, 1, 1, 1) * dds, rtol=1e-12, atol=0)


def test_deterministic_where_promised():
    """ISM reaches t = 0 by its inversion, and SDI adds no noise at η = 0: other seeds, same gradient."""

    def two(name, **settings):
        t, z = torch.tensor([500] * 3), batch(torch.zeros(3))[0]
        algorithm = method(name, GaussianPrior(DATA), s=7.5, settings=settings or None)
        return [algorithm.gradient(z, t, 0.0) for _ in range(2)]

    for name, settings in (("ism", {}), ("sdi", dict(eta=0.0))):
        assert torch.equal(*two(name, **settings))
    for name, settings in (("ism", dict(max_steps=1)), ("sdi", {}), ("sds", {})):
        assert not torch.equal(*two(name, **settings))


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "vsd"])
def test_particles_do_not_depend_on_the_batch(name):
    """Row 2 of seed 11 is row 0 of seed 13, whatever the other rows' timesteps."""
    t = torch.tensor([481] * 3 if ALGORITHMS[name].is_sampler else [999, 90, 501])
    z, images, _ = batch(t)
    prior = GaussianPrior(DATA)
    many = method(name, prior, "bad", 7.5, images, steps=60).gradient(z, t, 0.9)
    edit = dict(source_prompts=SOURCES[2:], source_images=images[2:]) if ALGORITHMS[name].edits else {}
    alone = Particles(prior, PROMPTS[2:], "bad", SEED + 2, **edit)
    one = ALGORITHMS[name](prior, alone, AlgorithmConfig(name=name, guidance_scale=7.5), 60).gradient(z[2:], t[2:], 0.9)
    assert torch.equal(many[2], one[0])
    draws = Particles(prior, PROMPTS, "", SEED).randint(20, 980)
    assert draws[2] == Particles(prior, ["cat"], "", SEED + 2).randint(20, 980)[0] and len(set(draws.tolist())) == 3


def test_a_method_may_have_two_loras(tiny):
    """Each is the only active one in its context, and learns there; outside the network is as it was, bit for bit."""
    prior = Prior(PriorConfig(path=str(tiny)))
    torch.manual_seed(0)
    z, t, text = torch.randn(2, *prior.latent_shape), torch.tensor([100, 500]), prior.encode_prompt(["a fox", "a fish"])
    plain = prior.predict_noise(z, t, text)
    loras = [add_lora(prior.denoiser, name, 2, seed) for seed, name in enumerate(("first", "second"))]
    optimizers = [torch.optim.SGD(lora.parameters, lr=0.1) for lora in loras]
    for lora, optimizer in [*zip(loras, optimizers, strict=True)] * 3:
        with lora.active():
            (prior.model_output(z, t, text) - 1).square().mean().backward()
        assert all(value.grad is not None for value in lora.parameters)
        optimizer.step()
        optimizer.zero_grad()
    outputs = []
    for lora in loras:
        with lora.active():
            outputs.append(prior.predict_noise(z, t, text))
    assert torch.equal(prior.predict_noise(z, t, text), plain)
    assert all((output - plain).abs().max() > 1e-6 for output in outputs) and not torch.equal(*outputs)
