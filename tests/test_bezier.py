"""Strokes and shapes: their geometry against closed forms and autograd, their SVG against another renderer."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from algorithms.particles import Particles
from priors.checkpoint import Checkpoint, PriorConfig
from representations import RepresentationConfig
from representations.bezier import Bezier
from representations.curves import SPREAD, axes, bezier, crossing, surface
from representations.representation import make_optimizer


@pytest.fixture(scope="module")
def prior(tiny):
    return Checkpoint(PriorConfig(path=str(tiny)))


def strokes(prior, rows=1, **options):
    config = RepresentationConfig(**{"kind": "bezier", "init": "constant", "lr": 1.0} | options)
    config.init_color = config.init_color or (0.5, 0.5, 0.5)
    return Bezier(config, prior, Particles(prior, ["a"] * rows, "", 3))


def random_points(*shape, seed=0):
    return 20 + 20 * torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_curve_and_derivatives():
    points, t = random_points(2, 3, 4), torch.linspace(0, 1, 5, dtype=torch.float64)
    ends, *_ = bezier(points, torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ends, points[:, :, [0, 3]])
    casteljau = points
    for _ in range(3):
        casteljau = casteljau.diff(dim=2) * 0.5 + casteljau[:, :, :-1]
    torch.testing.assert_close(bezier(points, t)[0][:, :, 2:3], casteljau)
    for order in (0, 1):
        (of_t,) = torch.func.jvp(lambda t, order=order: bezier(points, t)[order], (t,), (torch.ones_like(t),))[1:]
        torch.testing.assert_close(of_t, bezier(points, t)[order + 1])


@pytest.mark.parametrize("closed", [False, True])
def test_jacobians_are_the_derivatives_of_the_surface(closed):
    """By differences between neighbours on a fine grid."""
    points, along, across = random_points(1, 4, 6 if closed else 4) / 5, 4001, 5
    points = points + torch.tensor([0.0, 20.0, 40.0, 60.0, 40.0, 20.0])[: points.shape[2], None]
    widths = None if closed else torch.tensor([[0.5, 2.0, 4.0, 8.0]], dtype=torch.float64)
    centers, jacobians = (value.unflatten(2, (along, across)) for value in surface(points, widths, along, across))
    by_t = (centers[:, :, 2:] - centers[:, :, :-2]) / 2
    inside = slice(1, -1)
    torch.testing.assert_close(jacobians[:, :, inside, :, :, 0], by_t, rtol=2e-3, atol=1e-5)
    by_u = centers.diff(dim=3)
    torch.testing.assert_close(jacobians[:, :, :, :-1, :, 1], by_u, rtol=2e-3, atol=1e-5)


def test_a_straight_stroke_by_hand(prior):
    """From (8, 32) to (56, 32) and 6 wide, with eight Gaussians along it and three across."""
    one = strokes(prior, num_strokes=1, samples_along=8, samples_across=3)
    with torch.no_grad():
        one.groups["point"].copy_(torch.tensor([[8.0, 32.0], [24.0, 32.0], [40.0, 32.0], [56.0, 32.0]]) / 64)
        one.groups["width"].fill_(6 / 64)
    centers, scales, angles, colors, opacities, background = one.gaussians()
    assert centers[0, :, 0].unique().tolist() == pytest.approx([11, 17, 23, 29, 35, 41, 47, 53])
    assert sorted({round(y, 3) for y in centers[0, :, 1].tolist()}) == [30, 32, 34]
    torch.testing.assert_close(scales, torch.tensor([6.0, 2.0]).expand_as(scales) * SPREAD, rtol=1e-3, atol=1e-3)
    assert angles.sin().abs().max() < 1e-5
    assert (colors == 0.5).all() and (background == 1).all()
    narrowed = (6 * 2 * SPREAD**2) / ((36 * SPREAD**2 + 0.3) * (4 * SPREAD**2 + 0.3)) ** 0.5
    torch.testing.assert_close(opacities, torch.full_like(opacities, 0.5 * narrowed), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("logit", [-2.0, 0.0, 3.0])
def test_a_stroke_is_as_opaque_inside_as_its_svg_says(prior, closed, logit, tmp_path):
    """Evenly: its Gaussians leave neither gaps nor beads."""
    one = strokes(prior, num_strokes=1, closed=closed, samples_across=12, init_color=(0.0, 0.0, 0.0), max_width=1.0)
    line = torch.tensor([[0.1, 0.5], [0.35, 0.5], [0.65, 0.5], [0.9, 0.5]])
    lens = torch.tensor([[0.1, 0.5], [0.3, 0.0], [0.7, 0.0], [0.9, 0.5], [0.7, 1.0], [0.3, 1.0]])
    with torch.no_grad():
        one.groups["point"].copy_(lens if closed else line)
        one.groups["opacity"].fill_(logit)
        if not closed:
            one.groups["width"].fill_(0.5)
        inside = 1 - one.images()[0, 0, 26:38, 20:44]
    one.files()["strokes_00.svg"](tmp_path / "one.svg")
    opacity = float(re.findall(r' opacity="([0-9.]+)"', (tmp_path / "one.svg").read_text())[0])
    assert inside.min() > opacity - 0.025 and inside.max() < opacity + 0.025


def test_axes_are_the_singular_value_decomposition():
    matrices = torch.randn(50, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrices[0], matrices[1] = torch.eye(2), torch.diag(torch.tensor([2.0, -3.0]))
    scales, angle = axes(matrices)
    torch.testing.assert_close(scales, torch.linalg.svdvals(matrices))
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()], -1), torch.stack([angle.sin(), angle.cos()], -1)], -2)
    product = turn @ torch.diag_embed(scales**2) @ turn.mT
    torch.testing.assert_close(product, matrices @ matrices.mT)
    points = matrices[2:10].clone().requires_grad_()
    assert torch.autograd.gradcheck(axes, points)
    for special in (torch.eye(2), torch.zeros(2, 2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])):
        special = special.clone().requires_grad_()
        sum(value.sum() for value in axes(special)).backward()
        assert special.grad.isfinite().all()


def test_crossing_curves_are_penalised_until_they_no_longer_cross(prior):
    untwisted = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    twisted = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert crossing(untwisted) == 0
    assert crossing(twisted).item() == pytest.approx(1), "from (1, 1) to (1, -1) it turns by a right angle"
    assert crossing(torch.cat([twisted, untwisted[[2, 1]]])).item() == pytest.approx(1), "a shape's second curve is not"
    for weight in (0.0, 0.1):
        one = strokes(prior, num_strokes=1, crossing_weight=weight)
        with torch.no_grad():
            one.groups["point"].copy_(0.2 + 0.6 * twisted)
            one.groups["point"][..., 3, 1] += 0.1  # At a right angle the sine has no slope.
        optimizer = make_optimizer(RepresentationConfig(optimizer="adam", lr=1.0), one.parameters())
        for _ in range(60):
            z = one.latents()
            optimizer.zero_grad()
            z.backward(torch.zeros_like(z))
            optimizer.step()
        left = crossing(one.groups["point"].detach()).item()
        assert left > 0.5 if weight == 0 else left < 1e-6


def test_widths_and_colours_stay_in_their_ranges(prior):
    one = strokes(prior, min_width=0.03, max_width=0.05)
    for push in (1e3, -1e3):
        for name in ("width", "color", "ground"):
            one.groups[name].data.add_(push)
        one.project()
        assert (one.groups["width"] == (0.05 if push > 0 else 0.03)).all()
        assert all((one.groups[name] == (1.0 if push > 0 else 0.0)).all() for name in ("color", "ground"))


@pytest.mark.parametrize("closed", [False, True])
def test_degenerate_curves_keep_finite_gradients(prior, closed):
    """All points in one place, far off the canvas, and no width at all: a step goes on."""
    one = strokes(prior, closed=closed, min_width=0.0)
    point = one.groups["point"].data
    point[:, ::3] = 0.5
    point[:, 1::3] += 50
    if not closed:
        one.groups["width"].data[:, ::2] = 0
    optimizer = make_optimizer(RepresentationConfig(optimizer="adam", lr=1.0), one.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        z = one.latents()
        z.backward(torch.ones_like(z))
        assert all(value.grad.isfinite().all() for value in one.groups.values())
        optimizer.step()
        one.project()
    with torch.no_grad():
        images = one.images()
        assert images.isfinite().all()
        assert all(picture.isfinite().all() for picture, _ in one.views(images).values())


def test_gradients_go_through_the_geometry(prior):
    """Beside the rasterizer's own gradients at the Gaussians, by the chain rule in double precision."""
    one = strokes(prior, num_strokes=5, min_width=0.0)
    for name, value in one.groups.items():
        one.groups[name] = torch.nn.Parameter(value.detach().double())
    gradients = [torch.randn_like(value) for value in one.gaussians()]

    def inner(*values):
        one.groups.update(zip(one.groups, values, strict=True))
        return sum((g * value).sum() for g, value in zip(gradients, one.gaussians(), strict=True))

    values = [value.detach().requires_grad_() for value in one.groups.values()]
    assert torch.autograd.gradcheck(inner, values, atol=1e-3, rtol=1e-3)


def drawing(seed=0):
    """Three flat discs on a coloured ground."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    picture = np.broadcast_to(generator.integers(100, 255, 3), (64, 64, 3)).astype(np.uint8)
    for _ in range(3):
        (a, b), radius = generator.integers(12, 52, 2), generator.integers(6, 16)
        picture = np.where(((x - a) ** 2 + (y - b) ** 2 < radius**2)[..., None], generator.integers(0, 255, 3), picture)
    return Image.fromarray(picture.astype(np.uint8))


@pytest.mark.parametrize("closed", [False, True])
def test_the_svg_is_the_fitted_picture(prior, tmp_path, closed):
    """Drawn by resvg. 26 dB is a root mean square of 0.05."""
    resvg = pytest.importorskip("resvg_py")
    paths = [str(tmp_path / f"{index}.png") for index in range(2)]
    for index, path in enumerate(paths):
        drawing(index).save(path)
    fitted = strokes(prior, 2, init="image", init_images=tuple(paths), closed=closed, fit_steps=150)
    images = fitted.images().detach()
    targets = torch.stack([to_tensor(Image.open(path)) for path in paths])
    assert psnr(images, targets).mean() > 22
    files = fitted.files()
    assert sorted(files) == ["strokes_00.svg", "strokes_01.svg"]
    for index, writer in enumerate(files.values()):
        writer(tmp_path / "one.svg")
        drawn = Image.open(io.BytesIO(bytes(resvg.svg_to_bytes(svg_path=str(tmp_path / "one.svg"))))).convert("RGB")
        assert psnr(to_tensor(drawn), images[index]) > 26
    if not closed:
        black = torch.zeros_like(fitted.groups["color"])
        fitted.groups["color"].data.copy_(black)
        assert psnr(to_tensor(drawn), fitted.images().detach()[1]) < 15, "a wrong colour is seen"


def to_tensor(picture):
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).float() / 255


def psnr(a, b):
    return -10 * (a - b).square().mean((-3, -2, -1)).log10()


def test_the_paths_are_drawn_where_the_strokes_are(prior):
    one = strokes(prior, num_strokes=1, init_color=(0.0, 0.0, 1.0))
    with torch.no_grad():
        one.groups["point"].copy_(torch.tensor([[0.1, 0.2], [0.3, 0.2], [0.6, 0.2], [0.9, 0.2]]))
        picture, _ = one.views(torch.ones(1, 3, 64, 64))["paths"]
    blue = (picture[0, 2] - picture[0, 0] > 0.3).nonzero().float()  # y and x
    assert blue[:, 0].mean().item() == pytest.approx(0.2 * 384, abs=1.5)
    assert blue[:, 1].min().item() == pytest.approx(0.1 * 384, abs=3)
    assert blue[:, 1].max().item() == pytest.approx(0.9 * 384, abs=3)


def test_a_stroke_in_front_hides_one_behind(prior):
    one = strokes(prior, num_strokes=2, background=(1.0, 1.0, 1.0), max_width=1.0)
    with torch.no_grad():
        one.groups["point"].copy_(torch.tensor([[0.1, 0.5], [0.3, 0.5], [0.6, 0.5], [0.9, 0.5]]))
        one.groups["width"].fill_(0.4)
        one.groups["opacity"].fill_(6.0)
        one.groups["color"].copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
        red, _, blue = one.images()[0, :, 32, 32]
    assert red > 0.95 and blue < 0.05
