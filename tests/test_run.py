"""The whole command on small Stable Diffusions: what it leaves behind, that it repeats, and every flag it has."""

import json
import shutil
from dataclasses import fields, is_dataclass

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import yaml
from conftest import GaussianPrior
from PIL import Image

import sds2d


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_command_on_stable_diffusion(command, stable_diffusion, tmp_path, kind):
    """SD 1.5 (epsilon) and SD 2.1 (v-prediction), two prompts × two particles, started from another directory."""
    out = tmp_path / "run"
    done = command(
        "--prior.path", stable_diffusion, "--prompt", "a fox", "a fish / in: <b>water</b>\n", "--particles", 2,
        "--rep.kind", kind, "--steps", 5, "--log.every", 2, "--out", out, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("final.png") and "t=" in done.stderr
    noise = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and not line.startswith("sds:")]
    assert noise == [], "nothing but the bar"
    names = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert names == sorted(
        ["config.yaml", "metrics.jsonl", "video.mp4", "final.png", *(f"final_{i:02d}.png" for i in range(4)),
         *(f"images/step_{step:06d}.png" for step in (0, 2, 4, 5))]
    )  # fmt: skip
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
    assert len(video) == 4 and video.shape[1:3] == Image.open(out / "final.png").size[::-1]


def run(prior, out, *flags):
    """A run on a prior that is loaded already; --prior.path, which only lends its sds2d.json, comes with the flags."""
    return sds2d.run(sds2d.parse(["--out", str(out), "--log.every", "1000", *map(str, flags)]), prior)


@pytest.fixture
def gaussian():
    return GaussianPrior({"": (0.1, 0.0), "cat": (0.4, 0.0)})


@pytest.mark.parametrize("weight", ["constant", "dreamfusion"])
def test_loop_ends_where_theory_says(gaussian, tiny, tmp_path, weight):
    """SDS by SGD through the whole loop: the mean moves to m_y⁻ + s (m_y - m_y⁻)."""
    images = run(gaussian, tmp_path / "run", "--prior.path", tiny, "--prompt", "cat", "--algo.guidance-scale", 2,
                 "--rep.optimizer", "sgd", "--rep.lr", 0.2, "--steps", 200, "--schedule.t-min", 0.3,
                 "--schedule.weight", weight)  # fmt: skip
    torch.testing.assert_close(images, torch.full_like(images, 0.7), rtol=0, atol=1e-3)
    last = np.asarray(Image.open(tmp_path / "run" / "final_00.png"))
    assert (abs(last - 0.7 * 255) < 1).all()


def test_same_command_same_bytes(tiny, tmp_path, command):
    for name in ("one", "two"):
        done = command("--prior.path", tiny, "--steps", 3, "--particles", 2, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "final.png").read_bytes() == (tmp_path / "two" / "final.png").read_bytes()


@pytest.mark.parametrize("kind", ["latent", "pixel"])
def test_four_particles_are_four_runs_of_one(tiny, tmp_path, kind):
    from prior import Prior, PriorConfig

    prior = Prior(PriorConfig(path=str(tiny)))
    flags = ("--prior.path", tiny, "--steps", 4, "--rep.kind", kind, "--rep.optimizer", "sgd", "--rep.lr", 0.1)
    four = run(prior, tmp_path / "four", *flags, "--particles", 4, "--seed", 5)
    for row in range(4):
        one = run(prior, tmp_path / str(row), *flags, "--particles", 1, "--seed", 5 + row)
        torch.testing.assert_close(four[row : row + 1], one, rtol=0, atol=1e-4)


# Every flag with a value that is not its default, and what it must change or leave in config.yaml.
FLAGS = {
    "--negative-prompt": ("blue", "negative_prompt", "blue"),
    "--seed": ("7", "seed", 7),
    "--algo.name": ("sds", "algo.name", "sds"),
    "--algo.guidance-scale": ("3.5", "algo.guidance_scale", 3.5),
    "--rep.init": ("constant", "rep.init", "constant"),
    "--rep.init-std": ("0.5", "rep.init_std", 0.5),
    "--rep.optimizer": ("adamw", "rep.optimizer", "adamw"),
    "--rep.lr": ("0.3", "rep.lr", 0.3),
    "--schedule.timestep": ("hifa", "schedule.timestep", "hifa"),
    "--schedule.weight": ("constant", "schedule.weight", "constant"),
    "--schedule.t-min": ("0.5", "schedule.t_min", 0.5),
    "--schedule.t-max": ("0.6", "schedule.t_max", 0.6),
    "--schedule.shared-t": (None, "schedule.shared_t", True),
    "--log.fps": ("5", "log.fps", 5),
    "--log.tile": ("100", "log.tile", 100),
    "--prior.dtype": ("bfloat16", "prior.dtype", "bfloat16"),
    "--prior.device": ("cpu", "prior.device", "cpu"),
}
# These leave the pictures' pixels alone: sizes and speeds of what is shown, and what the default is anyway.
UNSEEN = {"--algo.name", "--log.fps", "--log.tile", "--prior.device"}


def test_every_flag_works(tiny, tmp_path):
    """Each flag through the command line's parser and one run; each that should change the pixels does."""

    def final(name, *flags):
        out = tmp_path / name
        config = sds2d.parse(["--prior.path", str(tiny), "--steps", "2", "--particles", "1", "--out", str(out), *flags])
        sds2d.run(config)
        return np.asarray(Image.open(out / "final_00.png")), yaml.safe_load((out / "config.yaml").read_text())

    plain, _ = final("plain", "--rep.lr", "0.1")
    for flag, (value, key, expected) in FLAGS.items():
        given = [flag] if value is None else [flag, value]
        base = [] if flag in ("--rep.lr", "--rep.optimizer") else ["--rep.lr", "0.1"]
        pixels, settings = final(flag.strip("-"), *base, *given)
        for part in key.split("."):
            settings = settings[part]
        assert settings == expected, flag
        if flag not in UNSEEN:
            assert not np.array_equal(pixels, plain), f"{flag} changes nothing"


def test_flags_of_the_start(tiny, tmp_path):
    Image.new("RGB", (64, 64), (10, 200, 30)).save(tmp_path / "green.png")
    flags = ["--prior.path", str(tiny), "--steps", "1", "--rep.kind", "pixel", "--rep.lr", "0.001", "--particles", "2"]
    for name, start in {
        "file": ["--rep.init", "image", "--rep.init-images", str(tmp_path / "green.png")],
        "colour": ["--rep.init", "constant", "--rep.init-color", str(10 / 255), str(200 / 255), str(30 / 255)],
    }.items():
        images = sds2d.run(sds2d.parse([*flags, *start, "--out", str(tmp_path / name)]))
        expected = torch.tensor([10, 200, 30]).view(1, 3, 1, 1) / 255
        assert (images - expected).abs().max() < 0.01


def test_every_setting_is_covered():
    """A new setting needs a line in FLAGS, or a test of its own named here."""
    elsewhere = {"prompt", "particles", "steps", "out", "rep.kind", "rep.init-images", "rep.init-color", "prior.path", "log.every"}

    def names(cls, prefix=""):
        for field in fields(cls):
            name = prefix + field.name.replace("_", "-")
            yield from names(field.type, name + ".") if is_dataclass(field.type) else [name]

    assert {flag.strip("-") for flag in FLAGS} | elsewhere == set(names(sds2d.Config))


def test_the_checkpoint_decides_where_the_user_does_not(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "advised")
    advice = {"sds": {"steps": 12, "algo.guidance_scale": 9.0, "schedule.t_max": 0.7, "rep.init": "constant"},
              "sds pixel": {"rep.lr": 0.123}}  # fmt: skip
    (folder / "sds2d.json").write_text(json.dumps(advice))
    Image.new("RGB", (64, 64)).save(tmp_path / "black.png")
    base = ["--prior.path", str(folder), "--out", str(tmp_path / "run")]
    config = sds2d.parse(base)
    assert (config.steps, config.algo.guidance_scale, config.rep.lr) == (12, 9.0, 0.05)
    assert (config.schedule.t_max, config.rep.init) == (0.7, "constant")
    config = sds2d.parse([*base, "--rep.kind", "pixel", "--steps", "3"])
    assert (config.steps, config.rep.lr) == (3, 0.123)
    config = sds2d.parse([*base, "--rep.kind", "pixel", "--rep.optimizer", "sgd"])
    assert config.rep.lr == sds2d.REPRESENTATIONS["pixel"].learning_rates["sgd"], "the advised rate is Adam's"
    config = sds2d.parse([*base, "--rep.init-images", str(tmp_path / "black.png")])
    assert config.rep.init == "image", "what the user implies comes before advice"
    (folder / "sds2d.json").write_text(json.dumps({"sds": {"algo.sharpness": 3}}))
    with pytest.raises(sds2d.InputError, match="algo.sharpness"):
        sds2d.parse(base)


def test_warnings_name_what_is_not_understood_and_the_run_goes_on(tiny, tmp_path, command):
    folder = shutil.copytree(tiny, tmp_path / "taught")
    (folder / "captions.json").write_text(json.dumps({"words": ["a", "fox"]}))
    prompt = "a zebra 🍎 " + " ".join(["fox"] * 40) + " quagga"
    done = command("--prior.path", folder, "--prompt", prompt, "--steps", 1, "--particles", 1, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 2
    assert "75 tokens" in warnings[0] and warnings[0].endswith("quagga'")
    assert warnings[1].endswith("never taught: zebra, 🍎, quagga")


def test_benchmark_speed_prints_its_table(tiny, tmp_path, monkeypatch, capsys):
    import benchmark

    paired = benchmark.paired
    monkeypatch.setattr(benchmark, "paired", lambda ours, bare: paired(ours, bare, rounds=1, warmup=0))
    benchmark.speed(["--prior.path", str(tiny), "--out", str(tmp_path / "none"), "--particles", "1"])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()]
    assert [cell.strip() for cell in rows[0]] == ["method", "representation", "step, ms", "bare calls, ms", "ratio"]
    assert [row[1].strip() for row in rows[2:]] == list(sds2d.REPRESENTATIONS)
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows[2:])


def test_gradient_that_is_not_finite_ends_the_run(gaussian, tiny, tmp_path, monkeypatch):
    network = gaussian.network

    def broken(z_t, t, text):
        output = network(z_t, t, text)
        broken.calls += 1
        if broken.calls == 4:
            output[3] = float("nan")  # the second particle's conditional prediction
        return output

    broken.calls = 0
    monkeypatch.setattr(gaussian, "network", broken)
    with pytest.raises(FloatingPointError, match=r"step 3, timestep \d+, particle 1"):
        run(gaussian, tmp_path / "run", "--prior.path", tiny, "--prompt", "cat", "--particles", 2, "--steps", 6)
    assert not list((tmp_path / "run").rglob("*.part*")) and not (tmp_path / "run" / "final.png").exists()
