"""What makes a method itself holds at the defaults that it has on the embedded prior, on latents."""

import copy
import functools

import pytest
import torch
from conftest import GaussianPrior
from test_methods import DATA

import sds2d
from algorithms import ALGORITHMS
from algorithms.nfsd import P_NEG

WORDS = {"cat in flat style": (0.6, 0.8), "cat in fluent style": (0.9, 0.3), P_NEG: (-0.2, 0.7)}
SOURCE = ["--source-image", "priors/emoji64/edits/15_source.png", "--source-prompt", "fish"]


@functools.cache
def defaults(name, *flags, prompt="cat"):
    source = SOURCE if ALGORITHMS[name].edits else []
    return sds2d.parse(["--algo.name", name, "--prompt", prompt, "--particles", "3", *source, *flags])


def gradient(parts, progress=0.0):
    return parts.algorithm.gradient(Z, T, parts.particles, progress)


def build(name, **options):
    """The method at the embedded prior's defaults, on the prior in closed form."""
    config, prior = copy.deepcopy(defaults(name, **options)), GaussianPrior(DATA | WORDS)
    prior.image_size = (2, 2)
    return sds2d.build(config, prior)


Z = torch.randn(3, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
T = torch.tensor([250, 600, 900])


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


@pytest.mark.parametrize("name", ["ism", "sdi", "cfd"])
def test_no_fresh_noise(name):
    """Inversion, or a noise that stays: other random numbers, same gradient."""
    first, second = build(name), build(name)
    second.particles.randn(10)
    second.particles.randint(0, 9)
    assert torch.equal(gradient(first), gradient(second))


@pytest.mark.parametrize(
    "name", ["sds", "vsd", "asd", "rfds", "lods", "csd", "nfsd", "bridge", "dds", "pds", "flowedit"]
)
def test_fresh_noise(name):
    first, second = build(name), build(name)
    second.particles.randn(10)
    assert not torch.equal(gradient(first), gradient(second))


def test_methods_differ_at_their_defaults():
    """No two are one method at two rates: their gradients of the same latents point elsewhere."""
    names = [name for name, cls in ALGORITHMS.items() if not cls.edits and not cls.is_sampler]
    gradients = {}
    for name in names:
        parts = build(name)
        gradient(parts, 0.9)  # SDI's first noise is that which CFD keeps.
        parts.algorithm.update(Z, T, parts.particles, 0.9)
        gradients[name] = gradient(parts, 0.95)
    for first in names:
        for second in names[names.index(first) + 1 :]:
            assert cosine(gradients[first], gradients[second]) < 1 - 1e-6, (first, second)


def test_editors_differ_at_their_defaults():
    """PDS is drawn to its source, and FlowEdit trusts it more than the target; where nothing is to be changed, none
    changes anything."""
    editors = [build(name) for name in ("dds", "pds", "flowedit")]
    gradients = [gradient(parts) for parts in editors]
    assert all(cosine(a, b) < 0.999 for a, b in ((gradients[0], gradients[1]), (gradients[0], gradients[2])))
    for name in ("dds", "pds"):
        same = build(name, prompt="fish")
        assert (same.algorithm.gradient(same.particles.source, T, same.particles, 0.0) == 0).all()
    _, pds, flowedit = (parts.algorithm for parts in editors)
    psi, _ = pds.coefficients(T)
    assert (psi > 0).all() and flowedit.source_s < flowedit.s


def test_csd_is_guidance_alone():
    assert (gradient(build("csd", prompt="")) == 0).all()


def test_paper():
    """The method's settings are its paper's, the rest the checkpoint's."""
    searched, paper = defaults("sds"), defaults("sds", "--paper")
    assert (paper.algo.guidance_scale, paper.schedule.timestep, paper.schedule.weight) == (
        100,
        "uniform",
        "dreamfusion",
    )
    assert searched.algo.guidance_scale < 20 and searched.schedule.timestep == "hifa"
    assert (paper.steps, paper.rep) == (searched.steps, searched.rep)
    ism = defaults("ism", "--paper").algo
    assert (ism.guidance_scale, ism.ism.delta_s, ism.ism.max_steps) == (7.5, 200, 5)
    assert defaults("sds", "--paper", "--algo.guidance-scale", "30").algo.guidance_scale == 30
    assert "the paper's" in sds2d.defaults(paper)[1]
