"""Neural fields: the batched network against one particle's layers, the hash grid against interpolation."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import sds2d
from algorithms.particles import Particles
from priors.checkpoint import Checkpoint, PriorConfig
from representations import RepresentationConfig
from representations.field import Field, hash_corners, look_up, pixel_centers

ENCODINGS = ["siren", "fourier", "hashgrid"]


@pytest.fixture(scope="module")
def prior(tiny):
    return Checkpoint(PriorConfig(path=str(tiny)))


def field(prior, rows=2, **options):
    given = {"kind": "field", "init": "constant", "init_color": (0.5, 0.5, 0.5), "init_std": 1.0, "lr": 1.0}
    return Field(RepresentationConfig(**given | options), prior, Particles(prior, ["a"] * rows, "", 3))


def test_places_are_the_pixels_centers():
    places = pixel_centers((2, 4), "cpu")
    assert places.tolist() == [[x, y] for y in (-0.25, 0.25) for x in (-0.75, -0.25, 0.25, 0.75)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_batch_is_each_particles_own_network(prior, encoding):
    """Row by row, with torch's linear layers, as the papers have them."""
    both = field(prior, encoding=encoding, init="noise")
    places = pixel_centers((64, 64), "cpu")
    for row in range(2):
        group = {name: value[row].detach() for name, value in both.groups.items()}
        if encoding == "fourier":  # Tancik et al. 2020's Gaussian mapping, but for a phase
            turns = 2 * math.pi * (places / 2) @ (both.projection[row] / math.pi)
            x = torch.cat([turns.sin(), turns.cos()], -1)
        elif encoding == "hashgrid":
            x = look_up(group.pop("table")[None], *both.inputs)[0]
        else:
            x = places
        *hidden, last = group.values()
        for weights in hidden:
            x = torch.nn.functional.linear(x, weights[:-1].T, weights[-1])
            x = torch.sin(15 * x) if encoding == "siren" else x.relu()
        colors = torch.nn.functional.linear(x, last[:-1].T, last[-1]).sigmoid()
        torch.testing.assert_close(both.images()[row].flatten(1).T, colors, rtol=1e-4, atol=1e-4)


def test_siren_keeps_its_activations_distribution(prior):
    """Sitzmann et al. 2020, on initialisation: before each sine but the first, a standard normal distribution."""
    siren = field(prior, 1, hidden_width=256, hidden_layers=4)
    x = siren.inputs.expand(1, -1, -1)
    for index in range(4):
        layer = siren.groups[f"layer_{index}"].detach()
        before = 15 * torch.baddbmm(layer[:, -1:], x, layer[:, :-1])
        if index:
            assert before.std().item() == pytest.approx(1, abs=0.15)
        x = before.sin()


def test_hash_grid_interpolates():
    """A function that is linear along x and along y is exact on a grid with an entry for each corner."""
    places = torch.rand(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places[0], places[1] = 0, 1
    indices, weights = hash_corners(places, [8, 15], 256)  # 81 and 256 corners
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 200, dtype=torch.float64))
    assert weights.min() >= 0
    tables = torch.zeros(1, 2, 256, 1, dtype=torch.float64)
    for level, count in enumerate((8, 15)):
        y, x = torch.meshgrid(*[torch.arange(count + 1, dtype=torch.float64) / count] * 2, indexing="ij")
        tables[0, level, : (count + 1) ** 2, 0] = (3 + 2 * x - y + 4 * x * y).flatten()
    x, y = places.T
    for level in range(2):
        values = look_up(tables, indices, weights)[0, :, level]
        torch.testing.assert_close(values, 3 + 2 * x - y + 4 * x * y)


def test_a_grid_larger_than_its_table_shares_entries():
    """By equation 4's hash, and evenly: each of 64 entries gets about as many of the 65² corners."""
    places = (torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)) + 0.5) / 64
    (indices,), _ = hash_corners(places, [64], 64)
    x, y = 5, 9
    own = indices[x * 64 + y]
    assert own.tolist() == [(a ^ (b * 2654435761)) % 64 for b in (y, y + 1) for a in (x, x + 1)]
    counts = torch.bincount(indices[:, 0], minlength=64)
    assert counts.min() > 32 and counts.max() < 128


@pytest.mark.parametrize("entries", [16, 100])
def test_gradients_of_the_hash_grid(entries):
    """In double precision, with and without shared entries."""
    places = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    corners = hash_corners(places, [3, 7], entries)
    tables = torch.randn(2, 2, entries, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda tables: look_up(tables, *corners), tables)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_starts(prior, encoding, tmp_path):
    flat = field(prior, encoding=encoding, init_color=(0.2, 0.5, 0.9)).images()
    torch.testing.assert_close(flat, torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand_as(flat))
    noisy = field(prior, encoding=encoding, init="noise", init_std=0.5).images().logit()
    torch.testing.assert_close(noisy.mean((2, 3)), torch.zeros(2, 3), rtol=0, atol=1e-4)
    assert noisy.flatten(1).std(1).tolist() == pytest.approx([0.5, 0.5], rel=0.1)
    assert not torch.equal(noisy[0], noisy[1])
    Image.effect_noise((8, 8), 60).convert("RGB").resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
    given = {"init": "image", "init_images": (str(tmp_path / "a.png"),), "fit_steps": 150}
    fitted = field(prior, 1, encoding=encoding, **given)
    target = torch.from_numpy(np.asarray(Image.open(tmp_path / "a.png")).copy()).movedim(-1, 0) / 255
    error = (fitted.images() - target).square().mean()
    assert -10 * error.log10() > (32 if encoding == "hashgrid" else 28)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_resolution(prior, encoding, tmp_path):
    """Drawn three times as large, every third pixel lies where one of the small picture lies; and it is not square."""
    one = field(prior, encoding=encoding, init="noise", render_size=(192, 192))
    writers = one.files()
    writers["final_01.png"](tmp_path / "large.png")
    large = torch.from_numpy(np.asarray(Image.open(tmp_path / "large.png")).copy()).movedim(-1, 0) / 255
    assert large.shape == (3, 192, 192)
    torch.testing.assert_close(large[:, 1::3, 1::3], one.images()[1].detach(), rtol=0, atol=1 / 255)
    assert field(prior, encoding=encoding).files() == {}


def test_render_size_through_the_command_line(prior, tiny, tmp_path):
    out = tmp_path / "run"
    flags = ["--rep.kind", "field", "--rep.render-size", "40", "200", "--steps", "1", "--particles", "2"]
    sds2d.run(sds2d.parse(["--prior.path", str(tiny), *flags, "--out", str(out)]), prior)
    assert Image.open(out / "final_01.png").size == (200, 40)
    assert Image.open(out / "images" / "step_000000.png").size[0] < 1000
