"""The whole command on small Stable Diffusions: what it leaves behind, that it repeats, and every flag it has."""

import functools
import gc
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, GaussianPrior
from PIL import Image

import sds2d
from config import CommandLine
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from priors.settings import settings_of

VIEWS = {"gaussian2d": ("density", "ellipses"), "bezier": ("paths",)}


# Latents on both versions, the other representations on either: a command takes its time.
KINDS = [
    ("2.1" if index % 2 else "1.5", kind)
    for index, kind in enumerate(["latent", "latent", *list(sds2d.REPRESENTATIONS)[1:]])
]


@pytest.mark.parametrize("stable_diffusion, kind", KINDS, indirect=["stable_diffusion"])
def test_command_on_stable_diffusion(command, stable_diffusion, tmp_path, kind):
    """SD 1.5 (epsilon) and SD 2.1 (v-prediction), two prompts × two particles, started from another directory."""
    out = tmp_path / "run"
    done = command(
        "--prior.path",
        stable_diffusion,
        "--prompt",
        "a fox",
        "a fish / in: <b>water</b>\n",
        "--particles",
        2,
        "--rep.kind",
        kind,
        "--steps",
        5,
        "--log.every",
        2,
        "--out",
        out,
        cwd=tmp_path,
        env=os.environ if kind in VIEWS else None,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("final.png")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split(",")[0] for line in steps] == [f"step {step} of 5" for step in (0, 2, 4)]
    assert sum("5 steps, uniform timesteps" in line for line in lines) == 1
    assert len(lines) <= 6, "what it loads, and compiles, what it does, and its recordings"
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".lock"]
    names = sorted(str(path.relative_to(out)) for path in files)
    assert names == sorted(
        [
            "config.yaml",
            "environment.json",
            "metrics.jsonl",
            "checkpoint.pt",
            "schedule.png",
            "video.mp4",
            "index.html",
            "final.png",
            *(f"final_{i:02d}.png" for i in range(4)),
            *(f"{view}/step_{step:06d}.png" for view in ("images", *VIEWS.get(kind, ())) for step in (0, 2, 4, 5)),
            *(f"{view}/step_{step:06d}.png" for view in ("gradients", "x0", "pseudo_gt") for step in (0, 2, 4)),
            *(f"gradients/step_{step:06d}.safetensors" for step in (0, 2, 4)),
            *(f"images/step_{step:06d}.safetensors" for step in (0, 2, 4, 5)),
            *(f"timesteps/{view}_000005.png" for view in ("gradients", "x0", "pseudo_gt")),
            *(f"gaussians_{i:02d}.ply" for i in range(4) if kind == "gaussian2d"),
            *(f"strokes_{i:02d}.svg" for i in range(4) if kind == "bezier"),
        ]
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(5))
    for line in lines:
        assert len(line["t"]) == len(line["weight"]) == len(line["grad_norm"]) == 4
        assert all(20 <= t <= 980 for t in line["t"]) and all(norm > 0 for norm in line["grad_norm"])
    settings = yaml.safe_load((out / "config.yaml").read_text())
    assert settings["algo"]["guidance_scale"] == 100 and settings["schedule"]["weight"] == "dreamfusion"
    assert settings["prompt"] == ["a fox", "a fish / in: <b>water</b>\n"]
    assert Image.open(out / "final_03.png").size == (64, 64)
    video = imageio.imread(out / "video.mp4")
    assert len(video) == 50 and video.shape[1:3] == Image.open(out / "final.png").size[::-1]


def run(prior, out, *flags):
    """A run on a prior that is loaded already; --prior.path, which only lends its sds2d.json, comes with the flags."""
    given = ["--out", str(out), "--log.every", "1000", "--log.timesteps", *map(str, flags)]
    return sds2d.run(sds2d.parse(given), prior).images


@pytest.fixture
def gaussian():
    return GaussianPrior({"": (0.1, 0.0), "cat": (0.4, 0.0)})


def test_memory_is_collected_during_the_loop(gaussian, tiny, tmp_path):
    """main() starts without Python's garbage collector, as here."""
    flags = ["--prior.path", str(tiny), "--prompt", "cat", "--steps", "2", "--out", str(tmp_path / "run")]
    collects = []
    gc.disable()
    try:
        sds2d.run(sds2d.parse(flags), gaussian, lambda *_: collects.append(gc.isenabled()))
    finally:
        gc.enable()
        gc.unfreeze()
    assert collects and all(collects)


@pytest.mark.parametrize("weight", ["constant", "dreamfusion"])
def test_loop_ends_where_theory_says(gaussian, tiny, tmp_path, weight):
    """SDS by SGD through the whole loop: the mean moves to m_y⁻ + s (m_y - m_y⁻)."""
    images = run(
        gaussian,
        tmp_path / "run",
        "--prior.path",
        tiny,
        "--prompt",
        "cat",
        "--algo.guidance-scale",
        2,
        "--rep.optimizer",
        "sgd",
        "--rep.lr",
        0.2,
        "--steps",
        200,
        "--schedule.t-min",
        0.3,
        "--schedule.weight",
        weight,
    )
    torch.testing.assert_close(images, torch.full_like(images, 0.7), rtol=0, atol=1e-3)
    last = np.asarray(Image.open(tmp_path / "run" / "final_00.png"))
    assert (abs(last - 0.7 * 255) < 1).all()


@pytest.fixture
def grey(tmp_path):
    """A source image whose latents are 0.4 on the Gaussian prior."""
    Image.new("RGB", (2, 2), (102, 102, 102)).save(tmp_path / "grey.png")
    return [
        "--source-image",
        tmp_path / "grey.png",
        "--source-prompt",
        "dog",
        "--prompt",
        "cat",
        "--rep.optimizer",
        "sgd",
    ]


def test_dds_ends_at_the_source_plus_the_difference_of_the_means(tiny, tmp_path, grey):
    prior = GaussianPrior({"": (0.1, 0.3), "cat": (0.4, 0.3), "dog": (0.3, 0.3)})
    images = run(
        prior,
        tmp_path / "run",
        "--prior.path",
        tiny,
        "--algo.name",
        "dds",
        "--algo.guidance-scale",
        3,
        *grey,
        "--rep.lr",
        0.3,
        "--steps",
        200,
    )
    torch.testing.assert_close(images, torch.full_like(images, 0.4 + 3 * 0.1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("posterior", ["authors", "exact"])
def test_pds_ends_where_its_two_terms_balance(tiny, tmp_path, grey, posterior):
    """ψΔ + χ √(ᾱ(1-ᾱ))/D (Δ - s (m_y - m_ysrc)) = 0 at one t, Δ = z - z^src; with the exact posterior ψ = 0, as in
    DDS."""
    s, deviation = 3.0, 0.3
    prior = GaussianPrior({"": (0.1, deviation), "cat": (0.4, deviation), "dog": (0.3, deviation)})
    images = run(
        prior,
        tmp_path / "run",
        "--prior.path",
        tiny,
        "--algo.name",
        "pds",
        "--algo.guidance-scale",
        s,
        *grey,
        "--algo.pds.posterior",
        posterior,
        "--schedule.t-min",
        0.2,
        "--schedule.t-max",
        0.2,
        "--rep.lr",
        2,
        "--steps",
        300,
    )
    psi, chi = {"authors": (0.14049, 0.09194), "exact": (0.0, 1.0)}[posterior]
    a = np.prod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000)[:201] ** 2)
    pull = chi * np.sqrt(a * (1 - a)) / (a * deviation**2 + 1 - a)
    expected = 0.4 + pull * s * 0.1 / (psi + pull)
    torch.testing.assert_close(images, torch.full_like(images, expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("deviation, error", [(0.0, 1e-4), (0.5, 0.02)])
def test_ddim_follows_the_probability_flow(tiny, tmp_path, deviation, error):
    """The flow's map is known: z_t - √ᾱ_t m grows as √D_t, exactly even for long steps where the data are a point."""
    prior = GaussianPrior({"": (0.1, 0.3), "cat": (0.4, deviation)})
    images = run(
        prior,
        tmp_path / "run",
        "--prior.path",
        tiny,
        "--algo.name",
        "ddim",
        "--algo.guidance-scale",
        1,
        "--prompt",
        "cat",
        "--steps",
        250,
    )[:, :1]
    noise = torch.stack([torch.randn(1, 2, 2, generator=torch.Generator().manual_seed(row)) for row in range(4)])
    a = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[[0, 997]]  # where the sampler ends and begins
    D = a * deviation**2 + 1 - a
    expected = a[0] ** 0.5 * 0.4 + (D[0] / D[1]) ** 0.5 * (noise - a[1] ** 0.5 * 0.4)
    torch.testing.assert_close(images, expected.to(images), rtol=0, atol=error)


def test_ddim_is_the_pipelines(stable_diffusion, tmp_path):
    """The command's pictures against diffusers' own pipeline, epsilon and v-prediction."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    images, _ = sds2d.run(
        sds2d.parse(
            [
                "--prior.path",
                str(stable_diffusion),
                "--algo.name",
                "ddim",
                "--steps",
                "8",
                "--prompt",
                "a fox",
                "--particles",
                "2",
                "--seed",
                "3",
                "--out",
                str(tmp_path / "run"),
            ]
        )
    )
    pipeline = StableDiffusionPipeline.from_pretrained(stable_diffusion, safety_checker=None, feature_extractor=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    generators = [torch.Generator().manual_seed(3 + row) for row in range(2)]
    expected = pipeline(
        ["a fox"] * 2, num_inference_steps=8, guidance_scale=7.5, generator=generators, output_type="pt"
    ).images
    torch.testing.assert_close(images.clamp(0, 1), expected, rtol=0, atol=2e-3)


@functools.cache
def loaded(checkpoint):
    return Checkpoint(PriorConfig(path=str(checkpoint)))


@pytest.mark.parametrize("name", list(sds2d.ALGORITHMS))
def test_every_method_on_stable_diffusion(stable_diffusion, tmp_path, name):
    """The parser, the loop and the folder, by each method's own defaults. test_resume.py has the other
    representations."""
    steps = 5 if sds2d.ALGORITHMS[name].is_sampler else 3  # DDIM's least, and enough for Bridge's second half
    Image.new("RGB", (80, 70), (200, 30, 30)).save(tmp_path / "red.png")
    edits = sds2d.ALGORITHMS[name].edits
    source = ["--source-image", str(tmp_path / "red.png"), "--source-prompt", "a hat"] if edits else []
    config = sds2d.parse(
        [
            "--prior.path",
            str(stable_diffusion),
            "--algo.name",
            name,
            "--steps",
            str(steps),
            "--prompt",
            "a fox",
            "a fish",
            "--particles",
            "1",
            *source,
            "--out",
            str(tmp_path / "run"),
        ]
    )
    images, _ = sds2d.run(config, loaded(stable_diffusion))
    assert images.shape == (2, 3, 64, 64) and images.isfinite().all() and not torch.equal(images[0], images[1])
    assert (tmp_path / "run" / "video.mp4").stat().st_size > 0 and (tmp_path / "run" / "final_01.png").exists()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == steps and all(norm > 0 for norm in lines[-1]["grad_norm"])


def test_one_source_with_many_targets_and_one_source_each(tiny, tmp_path, capsys):
    for name, colour in (("red", (200, 30, 30)), ("blue", (30, 30, 200))):
        Image.new("RGB", (100, 70), colour).save(tmp_path / f"{name}.png")
    red, blue = str(tmp_path / "red.png"), str(tmp_path / "blue.png")
    base = ["--prior.path", str(tiny), "--algo.name", "dds", "--steps", "1", "--rep.kind", "pixel", "--rep.lr", "1e-4"]
    for name, sources, prompts in (
        ("one", [red, "--source-prompt", "a fox"], ["a dog", "a cat", "a cow"]),
        ("each", [red, blue, "--source-prompt", "a fox", "a fish"], ["a dog", "a cat"]),
    ):
        images, _ = sds2d.run(
            sds2d.parse([*base, "--source-image", *sources, "--prompt", *prompts, "--out", str(tmp_path / name)])
        )
        colours = [(200, 30, 30)] * 3 if name == "one" else [(200, 30, 30), (30, 30, 200)]
        expected = torch.tensor(colours).view(-1, 3, 1, 1).expand_as(images) / 255
        torch.testing.assert_close(images, expected, rtol=0, atol=1e-3)
        notices = [line for line in capsys.readouterr().err.splitlines() if "is resized" in line]
        assert [line.split(":")[0] for line in notices] == [
            Path(path).name for path in sources if path.endswith(".png")
        ]
        assert all("70×70" in line and "64×64" in line for line in notices)


def test_a_method_of_ones_own(tiny, tmp_path):
    """The file and the line of docs/DEVELOPMENT.md, pasted into a copy of the project, run as it says."""
    text = (ROOT / "docs" / "DEVELOPMENT.md").read_text(encoding="utf-8").split("## A method of your own")[1]
    for name in ("sds2d.py", "config.py", "errors.py", "recording", "algorithms", "representations", "schedules"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "priors").mkdir()
    for source in (ROOT / "priors").glob("*.py"):
        shutil.copy(source, tmp_path / "priors")
    code = text.split("```python\n")[1].split("```")[0]
    (tmp_path / "algorithms" / "clipped.py").write_text(code, encoding="utf-8")
    assert len(code.strip().splitlines()) <= 35
    listing = tmp_path / "algorithms" / "__init__.py"
    line = re.search(r"^    (from algorithms\.clipped import \w+)$", text, re.M)[1]
    entry = re.search(r'^    ("clipped": \w+,)$', text, re.M)[1]
    lines = listing.read_text(encoding="utf-8").replace("from algorithms.csd", f"{line}\nfrom algorithms.csd")
    listing.write_text(lines.replace("ALGORITHMS = {", f"ALGORITHMS = {{\n    {entry}"), encoding="utf-8")
    (tmp_path / "prior").mkdir()
    shutil.copytree(tiny, tmp_path / "prior", dirs_exist_ok=True)
    (tmp_path / "prior" / "sds2d.json").write_text('{"sds": {"steps": 2, "schedule.timestep": "hifa", "rep.lr": 0.5}}')
    flags = re.search(r"python sds2d.py (--algo.name clipped .*)", text)[1].split()
    words = [sys.executable, "sds2d.py", *flags, "--prior.path", "prior", "--out", "run", "--particles", "1"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert settings["algo"]["clipped"] == {"norm": 30.0, "scale": 1.0}
    assert settings["steps"] == 2 and settings["schedule"]["timestep"] == "hifa" and settings["rep"]["lr"] == 0.5
    assert "sds2d.json, sds" in done.stderr, "where its defaults are from"


def test_ci_runs_the_readmes_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = re.search(r"^    (.*pytest.*)$", readme.split("Run the tests:")[1], re.M)[1]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def commands():
    """Every command of the README and the docs, but for those that need the hub."""
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^ {4}python ((?:sds2d|sweep)\.py .*)$", text, re.M):
            yield re.split("  #| [|] ", line)[0].strip()


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_of_the_docs_are_understood(line, tmp_path, monkeypatch):
    """Parsed and validated as a whole; the runs themselves are those of the other tests."""
    import sweep

    monkeypatch.chdir(tmp_path)
    for folder in ("priors", "outputs"):
        (tmp_path / folder).symlink_to(ROOT / folder) if (ROOT / folder).is_dir() else None
    Image.new("RGB", (8, 8)).save("photo.png")
    program, *words = shlex.split(line)
    if "--slurm" in words:
        pytest.importorskip("submitit")
    if "--out" in words:
        del words[words.index("--out") : words.index("--out") + 2]
    if any(word in line for word in ("outputs/a-run", "sweep.py --out", "stable-diffusion-v1-5", "clipped", "--help")):
        return  # A run that is there, the hub, a method that is not: test_resume.py, test_hostile.py, and above.
    (sweep.plan if program == "sweep.py" else sds2d.parse)(words)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_vsd_learns_in_float32_on_a_prior_in_half_precision(tiny, tmp_path, dtype):
    prior = Checkpoint(PriorConfig(path=str(tiny), dtype=dtype))
    images = run(prior, tmp_path / "run", "--prior.path", tiny, "--algo.name", "vsd", "--steps", 3, "--particles", 2)
    lora = [parameter for name, parameter in prior.denoiser.named_parameters() if "lora_" in name]
    assert prior.denoiser.conv_in.weight.dtype == getattr(torch, dtype) and images.isfinite().all()
    assert all(parameter.dtype == torch.float32 and parameter.isfinite().all() for parameter in lora)


def test_vsd_leaves_the_prior_as_it_was(stable_diffusion, tmp_path):
    """Bit for bit, also after φ has learned; and a second run on the same prior repeats the first."""
    prior = Checkpoint(PriorConfig(path=str(stable_diffusion)))
    given = torch.randn(2, 4, 8, 8), torch.tensor([30, 700]), prior.encode_prompt(["a fox", ""])
    before = prior.predict_noise(*given)
    flags = (
        "--prior.path",
        stable_diffusion,
        "--algo.name",
        "vsd",
        "--algo.vsd.lora-lr",
        0.1,
        "--steps",
        3,
        "--particles",
        2,
    )
    first = run(prior, tmp_path / "first", *flags)
    assert torch.equal(prior.predict_noise(*given), before)
    lora = {name: parameter for name, parameter in prior.denoiser.named_parameters() if "lora_B" in name}
    assert len(lora) == 4 * 2 * 16
    # Where the smallest maps are 1×1 there is one key, and no query matters.
    assert all(parameter.abs().max() > 0 for name, parameter in lora.items() if "to_v" in name or "to_out" in name)
    assert torch.equal(run(prior, tmp_path / "second", *flags), first)
    plain = run(prior, tmp_path / "sds", *flags[:2], "--steps", 3, "--particles", 2)
    fresh = Checkpoint(PriorConfig(path=str(stable_diffusion)))
    assert torch.equal(plain, run(fresh, tmp_path / "fresh", *flags[:2], "--steps", 3, "--particles", 2))


@pytest.mark.parametrize(
    "name, kind",
    [
        *((name, "latent") for name in sds2d.ALGORITHMS if name != "vsd"),
        ("sds", "pixel"),
        ("sds", "gaussian2d"),
        ("sds", "bezier"),
        ("sds", "field"),
    ],
)
def test_four_particles_are_four_runs_of_one(tiny, tmp_path, monkeypatch, name, kind):
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    # In double precision: float32's products round otherwise in other batches, which ten steps can blow up to 2e-5.
    for network in (prior.denoiser, prior.autoencoder.vae):
        network.double()
    prior.dtype = prior.conditions.dtype = torch.float64
    # The final latents themselves, as far as a picture shows them.
    monkeypatch.setattr(prior, "decode", lambda z: torch.nn.functional.interpolate(z[:, :3], prior.image_size))
    flags = [
        "--prior.path",
        tiny,
        "--steps",
        5 if sds2d.ALGORITHMS[name].is_sampler else 3,
        "--rep.kind",
        kind,
        "--algo.name",
        name,
    ]
    if not sds2d.ALGORITHMS[name].is_sampler:
        # Gaussians' own rates, which this multiplies, are made for Adam's steps.
        flags += ["--rep.optimizer", "sgd", "--rep.lr", {"latent": 0.02, "pixel": 0.02, "field": 0.01}.get(kind, 100)]
    if sds2d.ALGORITHMS[name].edits:
        flags += ["--source-image", tmp_path / "noise.png", "--source-prompt", "a fish"]

    def final(*more):
        config = sds2d.parse([str(flag) for flag in (*flags, *more)])
        parts = sds2d.build(config, prior)
        for step in range(config.steps):
            sds2d.distill(parts, step)
        with torch.no_grad():
            return parts[1].images()

    four = final("--particles", 4, "--seed", 5)
    for row in range(4):
        one = final("--particles", 1, "--seed", 5 + row)
        torch.testing.assert_close(four[row : row + 1], one, rtol=0, atol=1e-5)
    if kind not in ("latent", "pixel"):  # they did move
        start = final("--rep.lr", 1e-20, "--particles", 4, "--seed", 5)
        assert (four - start).abs().max() > 0.01


# Every flag with a value that is not its default, and what it must change or leave in config.yaml.
FLAGS = {
    "--negative-prompt": ("blue", "negative_prompt", ["blue"]),
    "--source-negative-prompt": ("blue", "source_negative_prompt", ["blue"]),
    "--batch": ("1 --particles 2", "batch", 1),
    "--seed": ("7", "seed", 7),
    "--seeds": ("7", "seeds", [7]),
    "--algo.name": ("sds", "algo.name", "sds"),
    "--algo.guidance-scale": ("3.5", "algo.guidance_scale", 3.5),
    "--algo.source-guidance-scale": ("2.0", "algo.source_guidance_scale", 2.0),
    "--rep.init": ("constant", "rep.init", "constant"),
    "--rep.init-std": ("0.5", "rep.init_std", 0.5),
    "--rep.optimizer": ("adamw", "rep.optimizer", "adamw"),
    "--rep.lr": ("0.3", "rep.lr", 0.3),
    "--rep.lr-schedule": ("linear", "rep.lr_schedule", "linear"),
    "--rep.lr-warm-up": ("2", "rep.lr_warm_up", 2),
    "--algo.guidance-rescale": ("0.7", "algo.guidance_rescale", 0.7),
    "--algo.perp-neg-prompts": ("cat --algo.perp-neg-weights -1", "algo.perp_neg_prompts", ["cat"]),
    "--algo.updates-per-step": ("2", "algo.updates_per_step", 2),
    "--algo.repulsion": ("svgd --particles 3", "algo.repulsion", "svgd"),
    "--algo.repulsion-scale": ("3.0 --algo.repulsion svgd --particles 3", "algo.repulsion_scale", 3.0),
    "--rep.betas": ("0.5 0.6", "rep.betas", [0.5, 0.6]),
    "--rep.eps": ("0.1", "rep.eps", 0.1),
    "--schedule.timestep": ("hifa", "schedule.timestep", "hifa"),
    "--schedule.weight": ("constant", "schedule.weight", "constant"),
    "--schedule.t-min": ("0.5", "schedule.t_min", 0.5),
    "--schedule.t-max": ("0.6", "schedule.t_max", 0.6),
    "--schedule.shared-t": (None, "schedule.shared_t", True),
    "--log.fps": ("5", "log.fps", 5),
    "--log.gif": (None, "log.gif", True),
    "--log.arrays": (None, "log.arrays", True),
    "--log.gradient-scale": ("log", "log.gradient_scale", "log"),
    "--quiet": (None, "quiet", True),
    "--paper": (None, "paper", True),
    "--log.tile": ("100", "log.tile", 100),
    "--log.timesteps": ("0.3", "log.timesteps", [0.3]),
    "--log.timesteps-every": ("1", "log.timesteps_every", 1),
    "--eval.clip": ("none", "eval.clip", "none"),
    "--prior.dtype": ("bfloat16", "prior.dtype", "bfloat16"),
    "--prior.device": ("cpu", "prior.device", "cpu"),
    "--prior.compile": (None, "prior.compile", True),
    "--prior.size": ("32", "prior.size", [32]),
    "--prior.chunk": ("1", "prior.chunk", 1),
    "--prior.offload": (None, "prior.offload", True),
    "--prior.gradient-checkpointing": (None, "prior.gradient_checkpointing", True),
    "--prior.distilled-guidance": ("5.0", "prior.distilled_guidance", 5.0),
}
# A method's settings are tried with that method.
FLAGS |= {
    f"--algo.{flag}": (value, f"algo.{flag.replace('-', '_')}", yaml.safe_load(value))
    for flag, value in {
        "vsd.lora-rank": "2",
        "vsd.lora-lr": "0.01",
        "vsd.full-lr": "0.01",
        "vsd.lora-updates": "2",
        "vsd.lora-particles": "1",
        "vsd.lora-warm-up": "2",
        "vsd.lora-layers": "all",
        "vsd.phi": "full",
        "vsd.gamma": "-0.75",
        "cfd.gamma": "0.5",
        "lods.lr": "0.01",
        "lods.updates": "2",
        "asd.shift": "0.5",
        "rfds.reverse": "0.3",
        "sdi.noise": "cached",
        "ism.delta-t": "40",
        "ism.delta-t-start": "200",
        "ism.delta-s": "50",
        "ism.max-steps": "1",
        "pds.num-inference-steps": "100",
        "pds.posterior": "exact",
        "csd.w1": "2.0",
        "csd.w2": "0.9",
        "csd.w2-end": "0.1",
        "nfsd.negative-prompt": "ugly",
        "nfsd.denoised-below": "0.99",
        "bridge.source-words": "bad",
        "bridge.target-words": "good",
        "bridge.switch": "0.9",
        "sdedit.strength": "0.5",
        "sdi.inversion-guidance-scale": "2.0",
        "sdi.inversion-steps": "5",
        "sdi.eta": "0.0",
    }.items()
}
# So are a representation's.
FLAGS |= {
    f"--rep.{flag}": (
        value,
        f"rep.{flag.replace('-', '_')}",
        [yaml.safe_load(v) for v in value.split()] if " " in value else yaml.safe_load(value),
    )
    for flag, value in {
        "num-points": "20",
        "layout": "grid",
        "fit-steps": "2",
        "center-lr": "0.01",
        "scale-lr": "0.3",
        "angle-lr": "0.3",
        "color-lr": "0.2",
        "opacity-lr": "0.3",
        "background": "0.5 0.5 0.5",
        "num-strokes": "20",
        "samples-along": "8",
        "samples-across": "2",
        "min-width": "0.05",
        "max-width": "0.06",
        "crossing-weight": "100.0",
        "point-lr": "0.1",
        "width-lr": "0.1",
        "encoding": "hashgrid",
        "hidden-width": "8",
        "hidden-layers": "1",
        "frequency": "3.0",
        "hash-levels": "3",
        "hash-size": "100",
        "hash-features": "2",
        "render-size": "20 30",
        "network-lr": "0.01",
        "table-lr": "0.1",
    }.items()
}
FLAGS["--rep.closed"] = (None, "rep.closed", True)
# And a schedule's, each beside what it is tried with.
OF_SCHEDULES = {
    "t": ("700", "--schedule.timestep constant --schedule.t 300"),
    "timestep-points": ("0 300 1 900", "--schedule.timestep piecewise_linear --schedule.timestep-points 0 800"),
    "timestep-coefficients": ("500 -300", "--schedule.timestep polynomial --schedule.timestep-coefficients 800"),
    "weight-points": ("0 1 1 0.1", "--schedule.weight stepping --schedule.weight-points 0 1"),
    "weight-coefficients": ("1 -0.9", "--schedule.weight polynomial --schedule.weight-coefficients 1"),
    "weight-ends": ("1 0.1", "--schedule.weight linear --schedule.weight-ends 1 1"),
    "snr-gamma": ("0.01", "--schedule.weight snr"),
    **{
        f"random-decay.{flag}": (value, "--schedule.timestep random_decay --schedule.t-min 0.4 --steps 4")
        for flag, value in {"curve": "exponential", "at": "0.9", "t-min-end": "0.1", "t-max-end": "0.45"}.items()
    },
    **{
        f"dreamtime.{flag}": (value, "--schedule.timestep dreamtime --schedule.weight dreamtime --steps 4")
        for flag, value in {"m1": "600", "s1": "0.05", "m2": "700", "s2": "0.5"}.items()
    },
}
FLAGS |= {
    f"--schedule.{flag}": (
        value,
        f"schedule.{flag.replace('-', '_')}",
        [float(v) for v in value.split()] if " " in value else yaml.safe_load(value),
    )
    for flag, (value, _) in OF_SCHEDULES.items()
}
# Of each representation, the first that has a setting.
OWN = {
    f"--rep.{field.name.replace('_', '-')}": kind
    for kind, cls in reversed(sds2d.REPRESENTATIONS.items())
    for field in (fields(cls.Settings) if cls.Settings else ())
}
# These leave the pictures' pixels alone: sizes and speeds of what is shown, and what the default is anyway.
UNSEEN = {
    "--algo.name",
    "--log.fps",
    "--log.gif",
    "--log.arrays",
    "--log.gradient-scale",
    "--quiet",
    "--paper",  # The tiny prior has no defaults of its own.
    "--log.tile",
    "--log.timesteps",
    "--log.timesteps-every",
    "--eval.clip",
    "--prior.device",
    "--prior.compile",
    "--prior.chunk",
    "--prior.offload",
    "--prior.gradient-checkpointing",
    "--prior.distilled-guidance",
}


def base_of(flag):
    """What a flag is tried with: its method, its representation, its schedule, a rate whose two steps are seen."""
    key = FLAGS[flag][1]
    name = key.split(".")[1] if key.startswith("algo.") and key.count(".") == 2 else "sds"
    name = "dds" if flag in ("--algo.source-guidance-scale", "--source-negative-prompt") else name
    base = ["--algo.name", name] if name != "sds" else []
    if sds2d.ALGORITHMS[name].is_sampler:
        return (*base, "--source-image", "{noise}", "--source-prompt", "a fish", "--steps", "8")
    base += [] if flag in ("--rep.lr", "--rep.optimizer") else ["--rep.lr", "5" if flag in OWN else "0.1"]
    base += OF_SCHEDULES.get(flag.removeprefix("--schedule."), ("", ""))[1].split()
    if flag in OWN:
        base += ["--rep.kind", OWN[flag], "--rep.init-images", "{noise}", "--rep.fit-steps", "5"]
        base += ["--rep.encoding", "hashgrid"] if flag.startswith(("--rep.hash", "--rep.table")) else []
    if name != "sds":
        base += ["--rep.optimizer", "sgd", "--schedule.t-min", "0.5", "--particles", "2"]
    if name == "csd":
        base += ["--negative-prompt", "blue"]
    if flag == "--algo.vsd.gamma":  # Where φ is the prior, the two do not differ yet.
        base += ["--algo.vsd.lora-updates", "3", "--algo.vsd.lora-lr", "0.01"]
    if flag == "--algo.vsd.full-lr":
        base += ["--algo.vsd.phi", "full"]
    if sds2d.ALGORITHMS[name].edits:
        base += ["--source-image", "{noise}", "--source-prompt", "a fish"]
    return tuple(base)


@pytest.mark.parametrize("base", sorted({base_of(flag) for flag in FLAGS}), ids=" ".join)
def test_every_flag_works(tiny, tmp_path, base):
    """Each flag through the command line's parser and one run; each that should change the pixels does. Compiling
    takes a minute, and has a test of its own."""
    torch.compiler.set_stance("force_eager")
    noise = str(tmp_path / "noise.png")
    Image.effect_noise((64, 64), 80).save(noise)

    def final(name, *flags):
        out = tmp_path / name
        config = sds2d.parse(
            [
                "--prior.path",
                str(tiny),
                "--steps",
                "2",
                "--particles",
                "1",
                "--out",
                str(out),
                *(["--log.timesteps"] if "--log.timesteps" not in flags else []),
                *(flag.format(noise=noise) for flag in flags),
            ]
        )
        sds2d.run(config, None if any(flag.startswith("--prior") for flag in flags) else prior)
        return np.asarray(Image.open(out / "final_00.png")), yaml.safe_load((out / "config.yaml").read_text())

    prior = Checkpoint(PriorConfig(path=str(tiny)))
    plain, _ = final("plain", *base)
    for flag in (flag for flag in FLAGS if base_of(flag) == base):
        value, key, expected = FLAGS[flag]
        rest = base if flag not in base else base[: base.index(flag)]  # its value in the base comes last
        pixels, settings = final(flag.strip("-"), *rest, *([flag] if value is None else [flag, *value.split()]))
        for part in key.split("."):
            settings = settings[part]
        assert settings == expected, flag
        if flag not in UNSEEN:
            assert not np.array_equal(pixels, plain), f"{flag} changes nothing"


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_a_compiled_network_is_the_same(tiny, tmp_path, name):
    torch.compiler.set_stance("default")
    flags = [
        "--algo.name",
        name,
        "--prior.path",
        str(tiny),
        "--prompt",
        "a fox",
        "--particles",
        "2",
        "--steps",
        "3",
        "--eval.clip",
        "none",
        "--log.timesteps",
    ]
    plain, _ = sds2d.run(sds2d.parse([*flags, "--out", str(tmp_path / "plain")]))
    config = sds2d.parse([*flags, "--prior.compile", "--out", str(tmp_path / "compiled")])
    prior = Checkpoint(config.prior)
    assert prior.denoiser._compiled_call_impl is not None
    torch.testing.assert_close(sds2d.run(config, prior).images, plain, rtol=0, atol=1e-4)


def test_flags_of_the_start(tiny, tmp_path):
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "green.png")
    flags = ["--prior.path", str(tiny), "--steps", "1", "--rep.kind", "pixel", "--rep.lr", "0.001", "--particles", "2"]
    for name, start in {
        "file": ["--rep.init", "image", "--rep.init-images", str(tmp_path / "green.png")],
        "colour": ["--rep.init", "constant", "--rep.init-color", str(10 / 255), str(200 / 255), str(30 / 255)],
    }.items():
        images, _ = sds2d.run(sds2d.parse([*flags, *start, "--out", str(tmp_path / name)]))
        expected = torch.tensor([10, 200, 30]).view(1, 3, 1, 1) / 255
        assert (images - expected).abs().max() < 0.01


def test_background_shows_between_the_gaussians(tiny, tmp_path):
    """Two runs that differ in it alone: the pictures differ by what is left of the light, the same in all three
    colours."""
    flags = [
        "--prior.path",
        str(tiny),
        "--steps",
        "1",
        "--rep.kind",
        "gaussian2d",
        "--rep.num-points",
        "3",
        "--rep.lr",
        "1e-9",
    ]
    black, coloured = (
        sds2d.run(
            sds2d.parse(
                [*flags, "--rep.background", *map(str, background), "--out", str(tmp_path / str(background[0]))]
            )
        ).images
        for background in ((0.0, 0.0, 0.0), (0.2, 0.5, 0.8))
    )
    light = (coloured - black) / torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)
    assert 0 < light.min() < 0.7 < light.max() <= 1
    torch.testing.assert_close(light[:, :2], light[:, 1:], rtol=0, atol=1e-4)


def test_every_setting_is_covered():
    """A new setting needs a line in FLAGS, or a test of its own named here."""
    elsewhere = {
        "prompt",
        "particles",
        "steps",
        "out",
        "rep.kind",
        "rep.init-images",
        "rep.init-color",
        "prior.path",
        "prior.variant",
        "prior.vae",
        "prior.lora",
        "log.every",
        "source-mask",
        "prompts-file",
        "list",
        "log.tensorboard",
        "algo.perp-neg-weights",
        "source-image",
        "source-prompt",
        "config",
        "resume",
        "debug",
        "log.checkpoint-every",
        "command",
        "config-file",
        "filled",
    }

    names = {name.replace("_", "-") for name in settings_of(CommandLine)}
    assert {flag.strip("-") for flag in FLAGS} | elsewhere == names


def test_the_checkpoint_decides_where_the_user_does_not(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "advised")
    advice = {
        "sds": {"steps": 12, "algo.guidance_scale": 9.0, "schedule.t_max": 0.7, "rep.init": "constant"},
        "pixel": {"rep.optimizer": "adamw", "schedule.t_max": 0.9, "rep.init": "noise"},
        "sds pixel": {"rep.lr": 0.123, "rep.init_color": [0.1, 0.2, 0.3], "schedule.shared_t": True},
    }
    (folder / "sds2d.json").write_text(json.dumps(advice))
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    base = ["--prior.path", str(folder), "--out", str(tmp_path / "run")]
    config = sds2d.parse(base)
    assert (config.steps, config.algo.guidance_scale, config.rep.lr) == (12, 9.0, 0.05)
    assert (config.schedule.t_max, config.rep.init) == (0.7, "constant")
    config = sds2d.parse([*base, "--rep.kind", "pixel", "--steps", "3"])
    assert (config.steps, config.rep.lr, config.rep.optimizer) == (3, 0.123, "adamw")
    assert (config.schedule.t_max, config.rep.init) == (0.7, "constant"), (
        "the method's advice comes before the representation's"
    )
    edit = ["--algo.name", "dds", "--source-image", str(tmp_path / "black.png"), "--source-prompt", "a"]
    assert sds2d.parse([*base, *edit, "--rep.kind", "pixel"]).rep.init == "source", "and so does what a method is"
    assert config.rep.init_color == (0.1, 0.2, 0.3) and config.schedule.shared_t, "also where there is a default"
    assert not sds2d.parse([*base, "--rep.kind", "pixel", "--schedule.no-shared-t"]).schedule.shared_t
    config = sds2d.parse([*base, "--rep.kind", "pixel", "--rep.optimizer", "sgd"])
    assert config.rep.lr == sds2d.REPRESENTATIONS["pixel"].learning_rates["sgd"], "the advised rate is Adam's"
    config = sds2d.parse([*base, "--rep.init-images", str(tmp_path / "black.png")])
    assert config.rep.init == "image", "what the user implies comes before advice"
    for bad, word in (
        ({"algo.sharpness": 3}, "algo.sharpness"),
        ({"steps": "many"}, "many"),
        ([], "object"),
        ({"rep.init": "sourc"}, "sourc"),
    ):
        (folder / "sds2d.json").write_text(json.dumps({"sds": bad}))
        with pytest.raises(InputError, match=f"sds2d.json.*{word}"):
            sds2d.parse(base)


def test_warnings_name_what_is_not_understood_and_the_run_goes_on(tiny, tmp_path, command):
    folder = shutil.copytree(tiny, tmp_path / "taught")
    (folder / "captions.json").write_text(json.dumps({"words": ["a", "fox"]}))
    prompt = "a zebra 🍎 " + " ".join(["fox"] * 40) + " quagga"
    done = command(
        "--prior.path", folder, "--prompt", prompt, "--steps", 1, "--particles", 1, "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 2
    assert "75 tokens" in warnings[0] and warnings[0].endswith("quagga'")
    assert warnings[1].endswith("never taught: zebra, 🍎, quagga")


def test_memory_is_that_of_one_graph_of_one_steps_particles(tiny, tmp_path, monkeypatch):
    """The encoder stores activations for the batch alone, and for four pictures where nothing learns from them; they
    are gone when φ learns."""
    prior, encoded, learning, parts = Checkpoint(PriorConfig(path=str(tiny))), [], [], []
    encode, build, update = prior.autoencoder.vae.encode, sds2d.build, sds2d.ALGORITHMS["vsd"].update

    def noted(images):
        encoded.append((torch.is_grad_enabled(), len(images)))
        return encode(images)

    def learn(self, *step):
        learning.append(all(p.grad is not None for group in parts[0].optimizer.param_groups for p in group["params"]))
        update(self, *step)

    monkeypatch.setattr(prior.autoencoder.vae, "encode", noted)
    monkeypatch.setattr(sds2d.ALGORITHMS["vsd"], "update", learn)
    monkeypatch.setattr(sds2d, "build", lambda *given: parts.append(build(*given)) or parts[0])
    flags = ["--algo.name", "vsd", "--rep.kind", "pixel", "--particles", "6", "--batch", "2", "--steps", "2"]
    sds2d.run(sds2d.parse(["--prior.path", str(tiny), *flags, "--out", str(tmp_path / "run")]), prior)
    assert {rows for graph, rows in encoded if graph} == {2}
    assert {rows for graph, rows in encoded if not graph} == {4, 2}, "the probe's six"
    assert learning == [True, True]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads the process's memory from /proc")
def test_a_long_run_needs_no_more_memory_than_a_short_one(gaussian, tiny, tmp_path):
    """With a look, a frame and a checkpoint at every tenth step, and VSD's LoRA."""
    seen = {}

    def watch(step, images):
        seen[step] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    flags = [
        "--prior.path",
        str(tiny),
        "--algo.name",
        "vsd",
        "--prompt",
        "cat",
        "--particles",
        "2",
        "--steps",
        "1500",
        "--log.every",
        "10",
        "--log.tile",
        "8",
        "--eval.clip",
        "none",
        "--out",
        str(tmp_path / "run"),
    ]
    sds2d.run(sds2d.parse(flags), gaussian, watch)
    assert seen[1490] - seen[500] < 3, "MB in a thousand steps"
