"""What is optimised: gradients reach the parameters, colours stay alive at their bounds, starts are what was asked for."""

import pytest
import torch
from PIL import Image

from algorithms.particles import Particles
from prior import Prior, PriorConfig
from representations import REPRESENTATIONS, RepresentationConfig, make_optimizer
from representations.start import load_image


@pytest.fixture(scope="module")
def prior(tiny):
    return Prior(PriorConfig(path=str(tiny)))


def build(kind, prior, rows=2, seed=3, **options):
    config = RepresentationConfig(kind=kind, **{"init": "noise", "init_std": 1.0, **options})
    return REPRESENTATIONS[kind](config, prior, Particles(prior, ["a"] * rows, "", seed))


@pytest.mark.parametrize("kind", list(REPRESENTATIONS))
def test_gradient_is_the_vector_jacobian_product(kind, prior):
    """z.backward(g) must give the derivative of <z, g> along any direction of the parameters, by finite differences."""
    representation = build(kind, prior)
    (parameter,) = representation.parameters()
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(2, *prior.latent_shape, generator=generator)
    direction = torch.randn(parameter.shape, generator=generator)
    representation.latents().backward(g)
    step = 1e-3
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            parameter += sign * step * direction
            values.append((representation.latents().double() * g).sum())
            parameter -= sign * step * direction
    numeric = (values[0] - values[1]) / (2 * step)
    assert (parameter.grad * direction).sum().item() == pytest.approx(numeric.item(), rel=2e-2)


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_pixels_at_their_bounds_can_leave_them(bound, prior):
    representation = build("pixel", prior, init="constant", init_color=(bound,) * 3)
    (pixels,) = representation.parameters()
    optimizer = torch.optim.SGD([pixels], lr=0.1)
    for push in (1.0, -1.0):  # outwards it stays at the bound, and one step back inwards moves every pixel by all of it
        pixels.grad = torch.full_like(pixels, push if bound == 0 else -push)
        optimizer.step()
        representation.project()
        expected = bound if push == 1.0 else abs(bound - 0.1)
        torch.testing.assert_close(pixels.detach(), torch.full_like(pixels, expected))


@pytest.mark.parametrize("kind", list(REPRESENTATIONS))
def test_noise_start_is_each_particles_own(kind, prior):
    (two,), (one,) = build(kind, prior, 2, seed=3).parameters(), build(kind, prior, 1, seed=4).parameters()
    assert torch.equal(two[1], one[0]) and not torch.equal(two[0], two[1])


def test_constant_start(prior):
    images = build("pixel", prior, init="constant", init_color=(0.1, 0.5, 0.9)).images()
    for channel, value in enumerate((0.1, 0.5, 0.9)):
        assert (images[:, channel] == value).all()
    latents = build("latent", prior, init="constant", init_color=(0.1, 0.5, 0.9)).latents()
    torch.testing.assert_close(latents, prior.encode(images))


def test_image_start(prior, tmp_path):
    paths = []
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
        paths.append(str(tmp_path / f"{name}.png"))
    images = build("pixel", prior, 4, init="image", init_images=tuple(paths)).images()
    assert (images[:2, 0] == 1).all() and (images[:2, 2] == 0).all() and (images[2:, 2] == 1).all()
    one = build("latent", prior, 4, init="image", init_images=(paths[0],)).latents()
    torch.testing.assert_close(one, prior.encode(images[:1]).expand(4, -1, -1, -1), rtol=1e-4, atol=1e-4)


def test_images_are_resized_with_a_notice(tmp_path, capsys):
    picture = Image.new("RGB", (200, 100), "red")
    picture.paste("blue", (50, 0, 150, 100))
    picture.save(tmp_path / "wide.png")
    loaded = load_image(tmp_path / "wide.png", 64)
    assert loaded.shape == (3, 64, 64)
    torch.testing.assert_close(loaded[:, 32, 32], torch.tensor([0.0, 0.0, 1.0]))
    assert (loaded[2, :, 2:-2] > 0.9).all(), "the middle square is the blue one"
    assert "200×100" in capsys.readouterr().out
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", 64) == 1).all(), "transparency shows white"
    assert capsys.readouterr().out == ""


def test_optimizers_are_torchs():
    for name, cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(name, [torch.nn.Parameter(torch.zeros(1))], 0.25)
        assert type(optimizer) is cls and optimizer.param_groups[0]["lr"] == 0.25
        for representation in REPRESENTATIONS.values():
            assert representation.learning_rates[name] > 0
