"""What a run records, on a prior whose predictions are known, read back from its files; and that watching changes
nothing."""

import json

import matplotlib
import numpy as np
import pytest
import torch
from conftest import GaussianPrior
from PIL import Image
from safetensors.torch import load_file

import sds2d
from algorithms import AlgorithmConfig
from algorithms.method import Method
from algorithms.particles import Particles
from recording.pictures import grid, heat_grid
from recording.probe import probe
from recording.scores import Evaluator
from representations.heat_map import heat_map

# m_∅, m_cat, m_dog: point masses, so that every prediction of a clean image is a mean, whatever the noise.
MEANS = {"": 0.1, "cat": 0.4, "dog": 0.3, "bright cat": 0.5, "bad cat": 0.2}
TILE, LABEL, GAP = 192, 26, 8
MAGMA = np.array(matplotlib.colormaps["magma"].colors) * 255  # (256, 3)


@pytest.fixture
def prior():
    return GaussianPrior({prompt: (mean, 0.0) for prompt, mean in MEANS.items()})


@pytest.fixture
def go(prior, tiny, tmp_path):
    """Runs one method for a few steps from clean latents of 0.2 → its folder."""
    Image.new("RGB", (2, 2), (51, 51, 51)).save(tmp_path / "dark.png")

    def call(name, *flags, out="run", steps=3):
        base = [
            "--prior.path",
            str(tiny),
            "--algo.name",
            name,
            "--prompt",
            "cat",
            "--particles",
            "2",
            "--steps",
            str(steps),
        ]
        base += ["--log.timesteps", "100", "500", "900"] if "--log.timesteps" not in flags else []
        if sds2d.ALGORITHMS[name].edits:
            base += ["--source-image", str(tmp_path / "dark.png")] if "--source-image" not in flags else []
            base += ["--source-prompt", "dog"]
        elif not sds2d.ALGORITHMS[name].is_sampler:
            base += ["--rep.init", "image", "--rep.init-images", str(tmp_path / "dark.png")]
        if name == "bridge":
            base += ["--algo.bridge.target-words", "", "--algo.bridge.source-words", ""]
        if name == "nfsd":
            base += ["--algo.nfsd.negative-prompt", ""]
        if sds2d.ALGORITHMS[name].is_sampler:
            base += ["--steps", "8"]
        sds2d.run(sds2d.parse([*base, *flags, "--out", str(tmp_path / out)]), prior)
        return tmp_path / out

    return call


def tile(file, row, column):
    """The picture at a place of a grid, as grey values (H, W) in [0, 1]."""
    left, top = GAP + column * (TILE + GAP), LABEL + row * (LABEL + TILE + GAP)
    return np.asarray(Image.open(file))[top : top + TILE, left : left + TILE, 0] / 255


def is_grey(file, rows, columns, expected):
    for row in range(rows):
        for column in range(columns):
            assert abs(tile(file, row, column) - expected).max() < 1.5 / 255, (file, row, column)


@pytest.mark.parametrize("name", list(sds2d.ALGORITHMS))
def test_watching_changes_nothing(go, name):
    """Every step looked at, at every timestep, or none: the same bytes at the end."""
    watched = go(name, "--log.every", "1", "--log.timesteps-every", "1")
    alone = go(name, "--log.every", "100", "--log.timesteps", "--eval.clip", "none", out="alone")
    assert (watched / "final.png").read_bytes() == (alone / "final.png").read_bytes()
    assert not (alone / "timesteps").exists() and len(list((watched / "images").iterdir())) > 3
    if not sds2d.ALGORITHMS[name].is_sampler:
        assert len(list((watched / "timesteps").glob("gradients_*.png"))) == 3, "before steps 1 and 2, and at the end"


def test_probing_leaves_a_methods_state_as_it_was(prior):
    """Whether gradient() replaces what it keeps from step to step, or changes it in place."""

    class Keeps(Method):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.register_buffer("calls", torch.zeros(1))
            self.register_buffer("total", torch.zeros(1))

        def gradient(self, z, t, particles, progress):
            self.calls = self.calls + 1
            self.total += 1
            return z * self.calls

    particles = Particles(prior, ["cat"], "", 0)
    method = Keeps(prior, particles, AlgorithmConfig(), 10)
    method.gradient(torch.ones(1, 1, 2, 2), torch.tensor([5]), particles, 0.0)
    gradient, _ = probe(method, torch.ones(1, 1, 2, 2), particles, [100, 500], 0.0)
    assert method.calls == 1 and method.total.item() == 1 and gradient.shape == (2, 1, 2, 2)


def test_a_method_that_changes_in_place_makes_the_same_run_when_it_is_recorded(go, monkeypatch):
    class Sum(sds2d.ALGORITHMS["sds"]):
        def __init__(self, prior, particles, *arguments):
            super().__init__(prior, particles, *arguments)
            self.register_buffer("total", torch.zeros(len(particles), *prior.latent_shape))

        def gradient(self, z, t, particles, progress):
            self.total += super().gradient(z, t, particles, progress)
            return self.total.clone()

    monkeypatch.setitem(sds2d.ALGORITHMS, "sds", Sum)
    recorded = go("sds", "--log.every", "1", "--log.timesteps-every", "1")
    alone = go("sds", "--log.every", "100", "--log.timesteps", out="alone")
    assert (recorded / "final.png").read_bytes() == (alone / "final.png").read_bytes()
    totals = [torch.load(run / "checkpoint.pt", weights_only=True)["algorithm"]["total"] for run in (recorded, alone)]
    assert torch.equal(*totals)


def test_the_probes_noise_is_not_what_the_latents_started_from(prior):
    """On latents: the first noise of a probe and the first of the run, which are the start, are different draws."""
    particles = Particles(prior, ["cat"] * 4, "", 0)
    start = particles.randn(4, 16, 16)
    after = particles.randn(4, 16, 16)
    first = particles.stream("probe").randn(4, 16, 16)
    assert torch.equal(particles.stream("probe").randn(4, 16, 16), first), "each probe draws the same"
    for other in (start, after):
        correlation = torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 5 / 4096**0.5


@pytest.mark.parametrize(
    "name, clean",
    [
        ("sds", 0.1 + 2 * 0.3),
        ("ism", 0.1 + 2 * 0.3),
        ("sdi", 0.1 + 2 * 0.3),
        ("vsd", 0.1 + 2 * 0.3),
        ("dds", 0.1 + 2 * 0.3),
        ("pds", 0.1 + 2 * 0.3),
        ("csd", 0.4),
        ("nfsd", 0.4),
        ("bridge", 0.4),
    ],
)
def test_the_clean_image_is_what_the_prior_predicts(go, name, clean):
    """m_y⁻ + s (m_y - m_y⁻) where guidance is followed, m_y where it is not; at the steps' own t and at those named."""
    scale = [] if name == "csd" else ["--algo.guidance-scale", "2"]
    folder = go(name, "--log.every", "1", "--rep.lr", "1e-6", *scale)
    first = 0.7 if name == "bridge" else clean  # which begins as SDS
    is_grey(folder / "x0" / "step_000000.png", 1, 2, first)
    is_grey(folder / "x0" / "step_000002.png", 1, 2, clean)
    is_grey(folder / "timesteps" / "x0_000003.png", 3, 2, clean)


@pytest.mark.parametrize(
    "name, target",
    [
        ("sds", 0.1 + 2 * 0.3),  # what the prior predicts
        (
            "vsd",
            0.2 + (0.1 + 2 * 0.3) - 0.4,
        ),  # z and the step from φ, which is still the prior, to the guided prediction
        ("csd", 0.2 + (0.4 - 0.1)),
        ("dds", 0.2 + 2 * (0.4 - 0.3)),
        ("pds", 0.2 + 2 * (0.4 - 0.3)),
    ],
)
def test_the_pseudo_ground_truth_is_where_the_gradient_points(go, name, target):
    scale = [] if name == "csd" else ["--algo.guidance-scale", "2"]
    folder = go(name, "--log.every", "1", "--rep.lr", "1e-6", *scale)
    is_grey(folder / "timesteps" / "pseudo_gt_000003.png", 3, 2, target)
    is_grey(folder / "pseudo_gt" / "step_000001.png", 1, 2, target)


def test_vsd_shows_what_phi_predicts(go):
    folder = go("vsd", "--log.every", "1", "--algo.vsd.lora-lr", "1e-9")
    is_grey(folder / "phi" / "step_000000.png", 1, 2, MEANS["cat"])
    is_grey(folder / "timesteps" / "phi_000003.png", 3, 2, MEANS["cat"])


def test_the_timesteps_are_those_named(go):
    """|g| of CSD on point masses is known: √(ᾱ/(1-ᾱ)) (m_y - m_∅), so the rows' brightness tells the timestep."""
    folder = go("csd", "--log.timesteps", "0.1", "600", "1", "--rep.lr", "1e-6")
    a = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[[100, 600, 999]]
    norms = (a / (1 - a)) ** 0.5 * 0.3
    for row, norm in enumerate(norms):
        expected = MAGMA[round(norm / norms.max() * 255), 0] / 255
        assert abs(tile(folder / "timesteps" / "gradients_000003.png", row, 1) - expected).max() < 1.5 / 255


def test_methods_that_need_a_least_timestep_are_asked_for_no_less(go):
    folder = go("ism", "--algo.ism.delta-t", "300", "--log.timesteps", "100", "200", "500")
    height = Image.open(folder / "timesteps" / "x0_000003.png").height
    assert height == 2 * (TILE + LABEL + GAP), "100 and 200 become 300: two rows are left"


def test_probes_have_steps_of_their_own(go):
    folder = go("sds", "--log.every", "3", "--log.timesteps-every", "2", steps=5)
    names = sorted(file.name for file in (folder / "timesteps").glob("gradients_*"))
    assert names == [f"gradients_{step:06d}.png" for step in (2, 4, 5)]


@pytest.mark.parametrize("steps, every", [(1, 1), (3, 1), (60, 20), (100, 34), (150, 50), (300, 43), (1000, 100)])
def test_a_run_is_recorded_three_to_ten_times_before_the_end(steps, every):
    assert sds2d.parse(["--steps", str(steps)]).log.every == every


def test_edits_stand_beside_their_source(go, tiny, tmp_path):
    folder = go("dds", "--log.every", "1", "--rep.lr", "0.05", steps=2)
    for file in (folder / "images" / "step_000002.png", folder / "final.png"):
        assert Image.open(file).width == 3 * (TILE + GAP) + GAP, "one source, two particles"
        assert abs(tile(file, 0, 0) - 51 / 255).max() < 1 / 255 < abs(tile(file, 0, 1) - 51 / 255).min()
    Image.new("RGB", (2, 2), (204, 204, 204)).save(tmp_path / "light.png")
    both = ["--source-image", str(tmp_path / "dark.png"), str(tmp_path / "light.png")]
    folder = go("dds", *both, "--rep.lr", "1e-6", out="both")
    for column, grey in enumerate((51, 51, 204, 204)):
        assert abs(tile(folder / "final.png", 0, column) - grey / 255).max() < 1.5 / 255, "each before its own"


def test_heat_maps_share_a_scale_and_show_it():
    values = torch.zeros(4, 2, 2)
    values[1], values[2, 0, 0] = 1.0, 4.0
    sheet = np.asarray(heat_grid(values, ["a", "b"], 2, 64))
    plain = np.asarray(grid(torch.zeros(4, 3, 2, 2), ["a", "b"], 2, 64))
    assert sheet.shape[1] > plain.shape[1] + 16 and sheet.shape[0] == plain.shape[0]
    first, second, third = sheet[40, 20], sheet[40, 8 + 64 + 8 + 20], sheet[26 + 64 + 8 + 26 + 10, 20]
    assert np.abs([first - MAGMA[0], third - MAGMA[255]]).max() <= 0.5, "none and the greatest"
    assert np.abs(second - MAGMA[64]).max() <= 0.5, "a quarter of it"
    bar = sheet[26 : 26 + 100, plain.shape[1] + 4]
    assert np.abs(bar[0] - MAGMA[255]).max() <= 0.5, "the bar begins with the greatest"


def test_the_scale_of_gradients_is_logarithmic_where_that_is_asked_for():
    values = torch.tensor([1.0, 0.1, 1e-3, 1e-9, 0.0, 50.0]).view(6, 1, 1)
    sheet = np.asarray(heat_grid(values, ["a"], 6, 8, largest=1.0, log=True))
    found = [sheet[30, 8 + 16 * k + 4] for k in range(6)]
    assert np.abs(found - MAGMA[[255, 170, 0, 0, 0, 255]]).max() <= 0.5


def test_gradients_of_a_run_have_one_scale(go):
    """It ends at the 99th percentile of all that were recorded, also of an earlier process of the run."""
    folder = go("sds", "--log.every", "1", steps=4)
    files = sorted((folder / "gradients").glob("*.safetensors"))
    norms = [load_file(file)["norm"] for file in files]
    end = torch.cat([norm.flatten() for norm in norms]).double().quantile(0.99)
    assert len(files) == 4 and len({norm.max().item() for norm in norms}) == 4
    for file, norm in zip(files, norms, strict=True):
        sheet = np.asarray(Image.open(file.with_suffix(".png")))
        color = heat_map(norm[:1] / end, 1.0)[0, :, 0, 0] * 255
        assert np.abs(sheet[26 + 3, 8 + 3] - color.numpy()).max() <= 1


def test_arrays(go):
    folder = go("sds", "--log.every", "2", "--log.arrays")
    files = sorted((folder / "arrays").iterdir())
    assert [file.name for file in files] == ["step_000000.safetensors", "step_000002.safetensors"]
    arrays = load_file(files[1])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert arrays["t"].tolist() == lines[2]["t"]
    torch.testing.assert_close(arrays["gradient"].flatten(1).norm(dim=1), torch.tensor(lines[2]["grad_norm"]))
    assert (
        set(arrays) == {"z", "t", "weight", "gradient", "x0", "pseudo_gt"} and arrays["z"].shape == arrays["x0"].shape
    )


class FixedJudge:
    """A CLIP whose features are written by hand."""

    def text_features(self, prompts):
        return torch.tensor([{"cat": [1.0, 0.0], "dog": [0.0, 1.0]}[prompt] for prompt in prompts])

    def image_features(self, images):
        return torch.stack([images[:, 0, 0, 0], images[:, 1, 0, 0]], 1)


def test_scores():
    images = torch.zeros(2, 3, 1, 1)
    images[0, 0], images[1, 1] = 1.0, 1.0  # one is all cat, one all dog
    particles = type("Rows", (), {"prompts": ["cat", "cat"], "source_images": None})
    assert Evaluator(FixedJudge(), particles).scores(images) == {"clip_score": [100.0, 0.0]}
    particles.source_images, particles.source_prompts = torch.zeros(2, 3, 1, 1), ["dog", "dog"]
    particles.source_images[:, 1] = 1.0
    images[1] = torch.tensor([1.0, 2.0, 0.0]).view(3, 1, 1)  # moved by (1, 1), the prompt by (1, -1)
    found = Evaluator(FixedJudge(), particles).scores(images)
    assert found["directional"] == [100.0, 0.0] and found["clip_score"][1] == pytest.approx(100 / 5**0.5, abs=1e-3)


def test_scores_stand_at_the_logging_interval(tiny, tmp_path):
    """With a CLIP from a folder, against what that CLIP says of the last picture."""
    from transformers import CLIPConfig, CLIPModel

    from recording.scores import Judge

    torch.manual_seed(0)
    small = dict(hidden_size=32, intermediate_size=37, num_hidden_layers=1, num_attention_heads=2)
    vocabulary = {"vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = dict(image_size=32, patch_size=8)
    config = CLIPConfig(text_config=small | vocabulary, vision_config=small | vision, projection_dim=16)
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    for name in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"):
        if (tiny / "tokenizer" / name).exists():
            (tmp_path / "clip" / name).write_bytes((tiny / "tokenizer" / name).read_bytes())
    settings = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "image_processor_type": "CLIPImageProcessor",
    }
    (tmp_path / "clip" / "preprocessor_config.json").write_text(json.dumps(settings))
    flags = [
        "--prior.path",
        str(tiny),
        "--prompt",
        "a fox",
        "--particles",
        "2",
        "--steps",
        "5",
        "--log.every",
        "2",
        "--log.timesteps",
    ]
    images, _ = sds2d.run(sds2d.parse([*flags, "--eval.clip", str(tmp_path / "clip"), "--out", str(tmp_path / "run")]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2, 4, 5]
    judge = Judge(tmp_path / "clip")
    expected = 100 * judge.image_features(images) @ judge.text_features(["a fox"])[0]
    torch.testing.assert_close(torch.tensor(lines[-1]["clip_score"]), expected, rtol=0, atol=2e-3)
    assert "CLIP score" in (tmp_path / "run" / "index.html").read_text()


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "--algo.name vsd --rep.kind pixel --rep.optimizer sgd",
        "--rep.init-std 0.3 --schedule.shared-t --negative-prompt=--x",
        "--rep.kind gaussian2d --algo.name pds --source-image {p} --source-prompt dog --rep.background 0 0 1",
        "--algo.name ddim",
        "--prompt=-x y --negative-prompt=-z",
        "--seed 3 --steps 7 --log.timesteps --rep.init-images {p} --prompt a\u2603 \"b'c",
    ],
)
def test_the_command_repeats_the_settings(tmp_path, flags):
    """The command that a run stores, parsed again, gives the same Config."""
    Image.new("RGB", (2, 2)).save(tmp_path / "dark.png")
    out = ["--out", str(tmp_path / "run")]
    given = flags.format(p=tmp_path / "dark.png").split()
    config = sds2d.parse([*given[:2], *out, *given[2:]])
    assert list(config.command) == given
    assert sds2d.parse([*config.command, *out]) == config
