"""What is optimised: gradients reach the parameters, colours stay alive at their bounds, starts are what was asked
for."""

import numpy as np
import pytest
import torch
from PIL import Image

from algorithms.particles import Particles
from priors.checkpoint import Checkpoint, PriorConfig
from representations import REPRESENTATIONS, RepresentationConfig
from representations.gaussian_views import density, ellipses
from representations.rasterizer import rasterize
from representations.representation import make_optimizer
from representations.start import load_image


@pytest.fixture(scope="module")
def prior(tiny):
    return Checkpoint(PriorConfig(path=str(tiny)))


def build(kind, prior, rows=2, seed=3, **options):
    config = RepresentationConfig(kind=kind, **{"init": "noise", "init_std": 1.0, "lr": 1.0, **options})
    return REPRESENTATIONS[kind](config, prior, Particles(prior, ["a"] * rows, "", seed))


def tensors(representation):
    """Its parameters, out of the groups that they may stand in."""
    return [
        value
        for group in representation.parameters()
        for value in (group["params"] if isinstance(group, dict) else [group])
    ]


@pytest.mark.parametrize("kind", ["latent", "pixel", "field"])
def test_gradient_is_the_vector_jacobian_product(kind, prior):
    """z.backward(g) must give the derivative of <z, g> along any direction of the parameters, by finite differences."""
    representation = build(kind, prior, frequency=2.0)  # a field that is nearly linear over the step below
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(2, *prior.latent_shape, generator=generator)
    representation.latents().backward(g)
    step = 1e-3
    for parameter in tensors(representation):
        direction = torch.randn(parameter.shape, generator=generator)
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
    two, one = build(kind, prior, 2, seed=3), build(kind, prior, 1, seed=4)
    assert all(torch.equal(a[1], b[0]) for a, b in zip(tensors(two), tensors(one), strict=True))
    assert not torch.equal(two.images()[0], two.images()[1])


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
    loaded = load_image(tmp_path / "wide.png", (64, 64))
    assert loaded.shape == (3, 64, 64)
    torch.testing.assert_close(loaded[:, 32, 32], torch.tensor([0.0, 0.0, 1.0]))
    assert (loaded[2, :, 2:-2] > 0.9).all(), "the middle square is the blue one"
    assert "200×100" in capsys.readouterr().err
    Image.new("RGBA", (64, 64), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", (64, 64)) == 1).all(), "transparency shows white"
    assert capsys.readouterr().err == ""


def test_optimizers_are_torchs():
    for name, cls in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(RepresentationConfig(optimizer=name, lr=0.25), [torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is cls and optimizer.param_groups[0]["lr"] == 0.25
        for representation in REPRESENTATIONS.values():
            assert representation.learning_rates[name] > 0


# ---------------------------------------------------------------------------------------------------------- Gaussians


def gaussians(prior, rows=2, **options):
    return build("gaussian2d", prior, rows, **options)


def test_gaussians_cover_the_canvas_from_the_start(prior):
    """Sparse starts are known to fail: nothing pulls on what no Gaussian touches. A black canvas must not shine
    through white ones."""
    for layout in ("random", "grid"):
        images = gaussians(
            prior, init="constant", init_color=(1.0, 1.0, 1.0), background=(0.0, 0.0, 0.0), layout=layout
        ).images()
        assert images.mean() > 0.9
        assert images.flatten(1).quantile(0.02) > (0.25 if layout == "random" else 0.6)


def test_layouts(prior):
    on_grid = gaussians(prior, num_points=10, layout="grid").gaussians()[0].detach()
    assert torch.equal(on_grid[0], on_grid[1])
    assert on_grid[0, :4, 0].tolist() == [8, 24, 40, 56] and on_grid[0, 8:, 0].tolist() == [16, 48], (
        "rows of 4, 4 and 2"
    )
    assert on_grid[0, ::4, 1].tolist() == pytest.approx([64 / 6, 32, 64 * 5 / 6])
    anywhere = gaussians(prior, num_points=2000).gaussians()[0].detach() / 64
    assert anywhere.min() >= 0 and anywhere.max() < 1
    # The mean of 2,000 uniform numbers is within five of its standard deviations, 1/√(12 · 2000), of a half.
    assert (anywhere.mean((1,)) - 0.5).abs().max() < 5 / (12 * 2000) ** 0.5


def test_gaussians_are_fitted_to_a_picture(prior, tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 3, 5, 5, generator=generator), size=64, mode="bicubic"
    ).clamp(0, 1)
    pixels = (smooth[0].movedim(0, -1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(tmp_path / "smooth.png")
    fitted = gaussians(prior, init="image", init_images=(str(tmp_path / "smooth.png"),), num_points=300, fit_steps=150)
    target = torch.from_numpy(pixels).movedim(-1, 0) / 255
    psnr = -10 * (fitted.images().detach() - target).square().mean((1, 2, 3)).log10()
    assert psnr.min() > 30
    line = capsys.readouterr().err.split("fitted to ")[1]
    printed = [float(word) for word in line.split(" dB")[0].split()]
    assert printed == pytest.approx(psnr.tolist(), abs=0.06), "what it says is what was reached"


@pytest.mark.parametrize(
    "group, value",
    [("scale", -200.0), ("scale", 200.0), ("center", 50.0), ("opacity", 200.0), ("opacity", -200.0), ("angle", 1e6)],
)
def test_degenerate_gaussians_keep_finite_gradients(prior, group, value):
    """Zero scale, the whole canvas, off the canvas, opacity at a bound: half of them so, and a step goes on."""
    representation = gaussians(prior)
    parameter = representation.groups[group]
    parameter.data[:, ::2] = value
    optimizer = make_optimizer(RepresentationConfig(optimizer="adam", lr=1.0), representation.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        z = representation.latents()
        z.backward(torch.ones_like(z))
        assert all(tensor.grad.isfinite().all() for tensor in tensors(representation))
        optimizer.step()
        representation.project()
    assert representation.images().isfinite().all()
    with torch.no_grad():
        assert all(images.isfinite().all() for images, _ in representation.views(representation.images()).values())
    colors = representation.groups["color"]
    assert colors.min() >= 0 and colors.max() <= 1


def test_gradients_of_gaussians_go_through_their_maps(prior):
    """Beside the rasterizer's own gradients, and the maps' derivatives by hand. (Finite differences do not serve:
    where a Gaussian moves, pixels cross its edge at α = 1/255, which no splatting counts as part of the gradient.)"""
    representation = gaussians(prior)
    g = torch.randn(2, *prior.latent_shape, generator=torch.Generator().manual_seed(0))
    representation.latents().backward(g)
    centers, scales, angles, colors, opacities = (
        value.detach().requires_grad_(True) for value in representation.gaussians()
    )
    prior.encode(rasterize(centers, scales, angles, colors, opacities, representation.background, (64, 64))).backward(g)
    for name, expected in {
        "center": centers.grad * 64,
        "scale": scales.grad * scales * (1 - scales / 64),
        "angle": angles.grad,
        "color": colors.grad,
        "opacity": opacities.grad * opacities * (1 - opacities),
    }.items():
        torch.testing.assert_close(representation.groups[name].grad, expected.detach(), rtol=1e-3, atol=1e-6, msg=name)


def test_groups_have_their_own_learning_rates(prior):
    rates = dict(lr=2.0, center_lr=0.1, scale_lr=0.2, angle_lr=0.3, color_lr=0.4, opacity_lr=0.5)
    optimizer = make_optimizer(RepresentationConfig(optimizer="adam", lr=2.0), gaussians(prior, **rates).parameters())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_ellipses_and_density_show_where_gaussians_lie():
    """One long one, right of the middle and high up, that runs from the upper left to the lower right; one off the
    canvas."""
    gaussians = (
        torch.tensor([[[48.0, 16.0], [-9.0, 5.0]]]),
        torch.tensor([[[10.0, 2.0], [1.0, 1.0]]]),
        torch.full((1, 2), torch.pi / 4),
        torch.tensor([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]]),
        torch.tensor([[1.0, 0.001]]),
    )
    (picture,) = ellipses(torch.ones(1, 3, 64, 64), *gaussians, least=192)
    blue = ((picture[2] - picture[0]) > 0.3).nonzero().float() / 3  # y and x, in pixels of the canvas
    assert len(blue) > 50
    torch.testing.assert_close(blue.mean(0), torch.tensor([16.0, 48.0]), rtol=0, atol=1)
    along, across = ((blue - blue.mean(0)) @ torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5).abs().amax(0).tolist()
    assert along == pytest.approx(10, abs=1) and across == pytest.approx(2, abs=1)
    centers = torch.tensor([[48.0, 16.0]]).expand(1, 15, 2).clone()
    heat, note = density(
        torch.cat([centers, torch.full((1, 1, 2), -1.0)], 1), torch.tensor([[0.001] * 4 + [1.0] * 12]), (64, 64)
    )
    assert heat.shape == (1, 3, 2, 2)
    bright = heat.sum(1)[0]
    assert bright[0, 1] > 2.5 and bright.sum() - bright[0, 1] < 0.1, "the upper right quarter holds them all"
    assert note == "0 … 0.02 centers a pixel; 6% off the canvas, 25% too transparent"


def test_gaussian_files_hold_what_is_drawn(prior, tmp_path):
    """Read back as splat viewers do, by Kerbl et al.'s conventions, the Gaussians are the same, the low-pass
    included."""
    representation = gaussians(prior, num_points=50, background=(1.0, 0.5, 0.0))
    files = representation.files()
    assert sorted(files) == ["gaussians_00.ply", "gaussians_01.ply"]
    files["gaussians_01.ply"](tmp_path / "one.ply")
    header, data = (tmp_path / "one.ply").read_bytes().split(b"end_header\n", 1)
    names = [
        "x",
        "y",
        "z",
        "nx",
        "ny",
        "nz",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        "opacity",
        "scale_0",
        "scale_1",
        "scale_2",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
    ]
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "comment background 1.0000 0.5000 0.0000",
        "element vertex 50",
        *(f"property float {name}" for name in names),
    ]
    table = dict(zip(names, torch.from_numpy(np.frombuffer(data, "<f4").reshape(50, -1).copy()).T, strict=True))
    assert (table["z"].diff() > 0).all(), "the first lies nearest"
    variances = torch.stack([table["scale_0"], table["scale_1"]], -1).exp() ** 2 * 64**2
    image = rasterize(
        (torch.stack([table["x"], table["y"]], -1)[None] + 0.5) * 64,
        (variances - 0.3).sqrt()[None],
        2 * torch.atan2(table["rot_3"], table["rot_0"])[None],
        (0.5 + 0.28209479177387814 * torch.stack([table[f"f_dc_{i}"] for i in range(3)], -1))[None],
        table["opacity"].sigmoid()[None],
        representation.background,
        (64, 64),
    )
    torch.testing.assert_close(image[0], representation.images()[1].detach(), rtol=0, atol=1e-4)
