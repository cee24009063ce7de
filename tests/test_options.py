"""What any method can be given: negative prompts, rescaled guidance, Perp-Neg, repulsion, steps of some of the
particles, several updates a step, a learning rate that changes."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal, get_args

import pytest
import torch
from conftest import GaussianPrior
from PIL import Image
from test_methods import ANY, DATA, PROMPTS, SEED, SOURCES, Row, batch
from test_methods import gradient as gradient_of

import sds2d
from algorithms import ALGORITHMS, AlgorithmConfig
from algorithms.particles import Particles
from algorithms.repulsion import REPULSION
from config import SETTINGS, Config, flatten, unused
from priors.checkpoint import Checkpoint, PriorConfig
from priors.settings import Finite, settings_of, when

TIMES = torch.tensor([100, 500, 979])


def make(name="sds", prompts=PROMPTS, kind="epsilon", **options):
    prior = GaussianPrior(DATA, kind)
    particles = Particles(prior, prompts, "bad", SEED)
    algorithm = ALGORITHMS[name](prior, particles, AlgorithmConfig(name=name, guidance_scale=7.5, **options), 10)
    algorithm.particles = particles  # for the calls below
    return algorithm


def test_each_prompt_and_its_source_have_negative_prompts():
    z, images, rows = batch(TIMES)
    prior, negative, of_source = GaussianPrior(DATA), ["bad", "", "fish"], ["", "cat", "bad"]
    particles = Particles(prior, PROMPTS, negative, SEED, SOURCES, images, of_source)
    dds = ALGORITHMS["dds"](prior, particles, AlgorithmConfig(name="dds", guidance_scale=3.0), 10)
    gradient = dds.gradient(z, TIMES, particles, 0.0)
    for row, r in enumerate(rows):
        noise = r.randn()
        expected = r.guided(r.y, negative[row], 3.0, r.noised(r.z, noise, r.t), r.t)
        expected = expected - r.guided(r.y_src, of_source[row], 3.0, r.noised(r.z_src, noise, r.t), r.t)
        torch.testing.assert_close(gradient[row], expected, rtol=1e-10, atol=1e-10)


STATES = [(name, {}) for name in ALGORITHMS if name not in ("vsd", "lods") and not ALGORITHMS[name].is_sampler]
STATES += [("cfd", dict(gamma=0.3)), ("sdi", dict(noise="cached"))]


@pytest.mark.parametrize("name, settings", STATES, ids=str)
def test_steps_of_some_particles(name, settings):
    """Each particle's gradients are those of a run of its own with as many steps as it was taken in."""
    own = {name: ALGORITHMS[name].Settings(**settings)} if settings else {}
    config = AlgorithmConfig(name=name, guidance_scale=7.5, **own)
    t, prompts, sources = 300, ["cat"] * 3 + ["dog"] * 3, ["fish"] * 3 + ["cat"] * 3
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=generator)
    images = torch.rand(6, 3, 2, 2, dtype=torch.float64, generator=generator)

    def make(rows, **options):
        prior = GaussianPrior(DATA)
        edit = {}
        if ALGORITHMS[name].edits:
            edit = dict(source_prompts=[sources[row] for row in rows], source_images=images[rows])
        particles = Particles(prior, [prompts[row] for row in rows], "bad", SEED + rows[0], **edit, **options)
        # In float64, as the prior: ε* and κ are kept in float32 otherwise.
        return ALGORITHMS[name](prior, particles, config, 10).double(), particles

    def step(algorithm, particles, z):
        times = torch.full((len(z),), t)
        gradient = algorithm.gradient(z, times, particles, 0.5)
        algorithm.update(z, times, particles, 0.5)
        return gradient

    algorithm, particles = make(list(range(6)), batch_size=2, per_prompt=3)
    taken = [[] for _ in range(6)]
    for _ in range(5):
        part = particles.minibatch()
        for row, gradient in zip(part.rows.tolist(), step(algorithm, part, z[part.rows]), strict=True):
            taken[row].append(gradient)
        assert (part.rows < 3).tolist() == [True, True, False, False] and len(part) == 4 and len(particles) == 6
    assert sum(map(len, taken)) == 20 and min(map(len, taken)) > 0 and max(map(len, taken)) < 5
    for row, gradients in enumerate(taken):
        alone = make([row])
        for gradient in gradients:
            torch.testing.assert_close(gradient, step(*alone, z[[row]])[0], rtol=1e-6, atol=1e-6)  # CFD's ε* is float32


def test_lods_learns_the_embeddings_of_the_particles_that_a_step_takes(tiny):
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    particles = Particles(prior, ["a fox", "a fish"] * 2, batch_size=2, per_prompt=4)
    algorithm = ALGORITHMS["lods"](prior, particles, AlgorithmConfig(name="lods", guidance_scale=7.5), 10)
    before, z = [value.detach().clone() for value in algorithm.embeddings], torch.randn(2, *prior.latent_shape)
    part = particles.minibatch()
    algorithm.gradient(z, torch.full((2,), 300), part, 0.0)
    algorithm.update(z, torch.full((2,), 300), part, 0.0)
    pairs = zip(algorithm.embeddings, before, strict=True)
    assert [row for row, (now, then) in enumerate(pairs) if not torch.equal(now, then)] == part.rows.tolist()


def test_seeds():
    """Each particle of a prompt is that of a run with its seed."""
    many = final("--seeds", "7", "3", "7", "9", "--prompt", "cat", "dog")[1][-1]
    assert torch.equal(many[0], many[2]) and not torch.equal(many[0], many[1])
    for row, (prompt, seed) in {1: ("cat", 3), 3: ("cat", 9), 4: ("dog", 7)}.items():
        alone = final("--seed", str(seed), "--prompt", prompt, "--particles", "1")[1][-1]
        torch.testing.assert_close(many[row], alone[0])


@pytest.mark.parametrize(
    "name, kind", [("dds", "latent"), ("pds", "pixel"), ("flowedit", "gaussian2d"), ("dds", "bezier"), ("dds", "field")]
)
def test_an_edit_stays_inside_its_mask(name, kind, tiny, tmp_path):
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "source.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 0, 32, 64))
    mask.save(tmp_path / "mask.png")
    flags = [
        "--prior.path",
        str(tiny),
        "--algo.name",
        name,
        "--rep.kind",
        kind,
        "--steps",
        "3",
        "--rep.optimizer",
        "adamw",
    ]
    flags += ["--source-image", str(tmp_path / "source.png"), "--source-prompt", "a fish", "--prompt", "a fox"]
    drawn = kind not in ("latent", "pixel")
    flags += ["--rep.lr", "1" if drawn else "0.1", "--particles", "2"]
    flags += ["--rep.fit-steps", "5"] if drawn else []
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    seen = {}
    for which, more in (("masked", ["--source-mask", str(tmp_path / "mask.png")]), ("plain", [])):
        parts = sds2d.build(sds2d.parse([*flags, *more]), prior)
        before = parts[1].images().detach().clone() if kind != "latent" else parts[1].latents().detach().clone()
        for step in range(3):
            sds2d.distill(parts, step)
        after = parts[1].images().detach() if kind != "latent" else parts[1].latents().detach()
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[:, 16:32] = True
        inside = inside[:: 64 // after.shape[-2], :: 64 // after.shape[-1]]
        change = (after - before).abs().amax((0, 1))
        seen[which] = change[inside].max().item(), change[~inside].mean().item()
    assert seen["masked"][0] > 1e-3 and seen["plain"][1] > 1e-3
    if drawn:  # Those near its border reach over it.
        assert seen["masked"][1] < seen["plain"][1]
    else:
        assert seen["masked"][1] == 0


def test_particles_that_a_step_does_not_take_stay():
    (_, representation, *_), z, gradients = final("--batch", "1", "--algo.updates-per-step", "2")
    assert all(len(g) == len(rows) == 1 for g, rows in zip(gradients, z[:3], strict=True))
    _, plain, _ = final()  # from the same start
    moved = (representation.latents() - plain[0]).flatten(1).abs().amax(1) > 1e-3
    assert 0 < moved.sum() < 4


@ANY
def test_rescaled_guidance(prediction_type):
    """Of the model output: ε, or v."""
    z, _, rows = batch(TIMES)
    gradient = gradient_of(make(kind=prediction_type, guidance_rescale=0.7), z, TIMES)
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
    alone = algorithm.prior.predict_noise(z, TIMES, algorithm.particles.y)
    found = algorithm.guided_noise(z, TIMES, algorithm.particles.y, algorithm.particles.y_negative)
    torch.testing.assert_close(found.std((1, 2, 3)), alone.std((1, 2, 3)), rtol=1e-9, atol=0)


@ANY
def test_perp_neg(prediction_type):
    z, _, rows = batch(TIMES)
    options = dict(perp_neg_prompts=("fish", ""), perp_neg_weights=(-1.5, -0.4))
    gradient = gradient_of(make(kind=prediction_type, **options), z, TIMES)
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
    plain, with_it = (gradient_of(make(prompts=["cat"] * 3, **given), z, TIMES) for given in ({}, options))
    torch.testing.assert_close(with_it, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sds", "nfsd"])
def test_what_leads_away_is_embedded_as_negative(name):
    """In some families a negative prompt gets another instruction than a prompt."""
    prior, negatives = GaussianPrior(DATA), []
    own = prior.encode_prompt
    prior.encode_prompt = lambda prompts, negative=False: (negatives.extend(prompts if negative else []), own(prompts))[
        1
    ]
    config = AlgorithmConfig(name=name, guidance_scale=7.5, perp_neg_prompts=("fish",), perp_neg_weights=(-1.0,))
    ALGORITHMS[name](prior, Particles(prior, PROMPTS, "bad", SEED), config, 10)
    assert "fish" in negatives and negatives.count("bad") == 3 * (3 if name == "nfsd" else 2)


def test_a_checkpoint_has_no_settings():
    """A longer run has its own number of steps, and its own settings, after a resume."""

    class Own(ALGORITHMS["sds"]):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.register_buffer("seen", torch.tensor(0))

    def build(scale, steps):
        prior = GaussianPrior(DATA)
        config = AlgorithmConfig(name="sds", guidance_scale=scale, updates_per_step=steps)
        return Own(prior, Particles(prior, PROMPTS, "bad", SEED), config, steps)

    old, new = build(3.0, 10), build(5.0, 20)
    old.seen += 7
    new.load_state_dict(old.state_dict())
    assert (new.seen, new.s, new.steps, new.updates_per_step) == (7, 5.0, 20, 20)


@pytest.mark.parametrize("kind", ["svgd", "rsd"])
@pytest.mark.parametrize("together", [[0, 1, 2, 3], [0, 1, 2], [0, 1]])
def test_particles_that_coincide_are_not_parted(kind, together):
    """Nor one that is far from all the others; and nothing is infinite."""
    z_t = torch.randn(4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    z_t[together] = z_t[0].clone()
    z_t[3] *= 1 if 3 in together else 1e4
    gradient, sigma = torch.zeros_like(z_t), torch.ones(4, 1, 1, 1)
    force = REPULSION[kind][0](gradient, z_t, sigma, 1.0)
    assert force.isfinite().all()
    for row in together:
        torch.testing.assert_close(force[row], force[0])


@pytest.mark.parametrize("kind", ["svgd", "rsd"])
def test_repulsion(kind):
    """Pair by pair, with the two prompts apart."""
    prompts = ["cat", "dog", "cat", "cat", "dog", "dog"]
    t = torch.tensor([100, 500, 979, 300, 300, 700])
    z = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = gradient_of(make(prompts=prompts), z, t)
    algorithm = make(prompts=prompts, repulsion=kind, repulsion_scale=0.7)
    found = algorithm.repelled(gradient_of(algorithm, z, t), t, algorithm.particles)
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
    given += [] if "--prompt" in flags else ["--prompt", "cat"]
    config = sds2d.parse([*given, "--particles", "4", *flags])
    parts = sds2d.build(config, GaussianPrior(DATA))
    taken = [sds2d.distill(parts, step) for step in range(3)]
    latents = [step.z for step in taken] + [parts.representation.latents().detach()]
    return parts, latents, [step.gradient for step in taken]


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


@dataclass
class Inner:
    rank: Annotated[int, when(kind="low", needed=True)] = 4
    kind: Literal["low", "full"] = "low"
    both: Annotated[Finite | None, when(kind=["low", "full"], mode="b"), when({"inner.kind": "low"})] = None


@dataclass
class Outer:
    inner: Annotated[Inner, when(mode=["a", "b"])] = field(default_factory=Inner)
    mode: str = "a"


def test_conditions_are_read_from_types():
    """Of a group and of the setting itself, with names in full."""
    found = {
        name: [(condition.choices, condition.needed) for condition in setting.conditions]
        for name, setting in settings_of(Outer).items()
    }
    group = ({"mode": ("a", "b")}, False)
    assert found == {
        "inner.rank": [group, ({"inner.kind": ("low",)}, True)],
        "inner.kind": [group],
        "inner.both": [
            group,
            ({"inner.kind": ("low", "full"), "inner.mode": ("b",)}, False),
            ({"inner.kind": ("low",)}, False),
        ],
        "mode": [],
    }
    assert settings_of(Outer)["inner.both"].type == Finite | None


def test_conditions_name_settings_and_values_that_there_are():
    for name, setting in SETTINGS.items():
        for condition in setting.conditions:
            for other, values in condition.choices.items():
                kind = SETTINGS[other].type
                if type(None) in get_args(kind):
                    kind = get_args(kind)[0]
                assert set(values) <= set(get_args(kind) or (True, False)), (name, other)


def test_one_choice_of_a_condition_is_enough_and_all_conditions_must_hold():
    flat = flatten(Config())

    def refused(name, **choices):
        return unused(name, flat | {key.replace("__", "."): value for key, value in choices.items()})

    schedule = dict(schedule__timestep="dreamtime", schedule__weight="dreamtime")
    assert "--schedule.timestep dreamtime or --schedule.weight dreamtime" in refused("schedule.dreamtime.m1")
    for one in schedule:
        assert refused("schedule.dreamtime.m1", **{one: schedule[one]}) is None
    assert "--algo.name vsd" in refused("algo.vsd.full_lr", algo__vsd__phi="full")
    assert "--algo.vsd.phi full, not lora" in refused("algo.vsd.full_lr", algo__name="vsd")
    assert refused("algo.vsd.full_lr", algo__name="vsd", algo__vsd__phi="full") is None
