"""What repeats a run: its command, its config.yaml, whatever the number of threads."""

import copy
import hashlib
import json
import os
import platform
import shutil
import subprocess

import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image

import sds2d
from config import Config, complete
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from recording.environment import commit
from schedules.schedule import ScheduleConfig


@pytest.fixture(scope="module")
def prior(tiny):
    return Checkpoint(PriorConfig(path=str(tiny)))


@pytest.mark.parametrize(
    "name, kind, threads", [("vsd", "latent", 1), ("vsd", "latent", 2), ("sds", "pixel", 3), ("sds", "gaussian2d", 2)]
)
def test_the_same_command_gives_the_same_bytes(tiny, tmp_path, nursery, name, kind, threads):
    for out in ("one", "two"):
        process = nursery.start(
            "--prior.path",
            tiny,
            "--algo.name",
            name,
            "--rep.kind",
            kind,
            "--steps",
            3,
            "--particles",
            2,
            "--log.timesteps",
            "500",
            "--out",
            tmp_path / out,
            threads=threads,
        )
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert json.loads((tmp_path / "one/environment.json").read_text())["threads"] == threads
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    for file in files:
        if file.name not in ("config.yaml", "metrics.jsonl", "index.html"):
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.slow
def test_two_processes_that_share_nothing(tiny, tmp_path, command):
    """Not even the order in which Python's sets come."""
    for out, seed in (("one", "1"), ("two", "2")):
        done = command(
            "--prior.path",
            tiny,
            "--algo.name",
            "vsd",
            "--steps",
            2,
            "--particles",
            2,
            "--out",
            tmp_path / out,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert done.returncode == 0, done.stderr
    for name in ("final.png", "checkpoint.pt"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


CONFIGURATIONS = [
    [],
    ["--algo.name", "vsd", "--rep.kind", "pixel", "--algo.vsd.lora-rank", "2", "--schedule.shared-t"],
    [
        "--algo.name",
        "ism",
        "--rep.init",
        "constant",
        "--rep.init-color",
        "0.1",
        "0.9",
        "0.3",
        "--negative-prompt=-x: [y]\n#z",
    ],
    ["--algo.name", "ddim", "--steps", "5", "--log.timesteps"],
    [
        "--algo.name",
        "csd",
        "--rep.optimizer",
        "sgd",
        "--prompt",
        "",
        "null",
        "3",
        "yes",
        "a: b",
        "é 狐 🦊",
        "'\"\\",
        " \t\n",
    ],
    ["--rep.kind", "gaussian2d", "--rep.num-points", "20", "--rep.init-images", "{image}", "--rep.fit-steps", "3"],
    [
        "--schedule.timestep",
        "piecewise_linear",
        "--schedule.timestep-points",
        "0",
        "900",
        "1",
        "20",
        "--schedule.weight",
        "linear",
        "--schedule.weight-ends",
        "1",
        "0.5",
    ],
    ["--algo.name", "pds", "--source-image", "{image}", "--source-prompt", "a hat"],
]


@pytest.mark.parametrize("flags", CONFIGURATIONS, ids=" ".join)
def test_config_yaml_alone_repeats_a_run(tiny, prior, tmp_path, flags, monkeypatch):
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    given = [
        "--steps",
        "3",
        "--particles",
        "1",
        "--prior.path",
        str(tiny),
        *(flag.format(image=tmp_path / "noise.png") for flag in flags),
    ]
    config = sds2d.parse([*given, "--out", str(tmp_path / "one")])
    sds2d.run(config, prior)
    shutil.move(tmp_path / "one" / "config.yaml", tmp_path / "config.yaml")
    again = sds2d.parse(["--config", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "two")])
    sds2d.run(again, prior)
    files = tmp_path / "config.yaml", tmp_path / "two" / "config.yaml"
    one, two = (yaml.safe_load(file.read_text()) | {"command": None} for file in files)
    assert one == two
    assert (tmp_path / "one" / "final.png").read_bytes() == (tmp_path / "two" / "final.png").read_bytes()
    first, second = (
        yaml.safe_load(file.read_text()) for file in (tmp_path / "config.yaml", tmp_path / "two/config.yaml")
    )
    assert first | {"command": None} == second | {"command": None}


def test_flags_beside_a_config_come_after_its_own(tiny, prior, tmp_path):
    sds2d.run(
        sds2d.parse(
            [
                "--prior.path",
                str(tiny),
                "--steps",
                "3",
                "--seed",
                "5",
                "--particles",
                "1",
                "--out",
                str(tmp_path / "run"),
            ]
        ),
        prior,
    )
    file = str(tmp_path / "run" / "config.yaml")
    other = sds2d.parse(["--config", file, "--seed", "6", "--algo.name", "vsd"])
    assert (other.seed, other.steps, other.algo.name, other.algo.guidance_scale) == (6, 3, "vsd", 7.5), (
        "and the rest is VSD's own"
    )
    assert other.out is None and sds2d.parse(["--config", file, "--out", "x"]).out == "x"


def test_environment_json_says_what_a_run_depends_on(tiny, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "black.png")
    twin = shutil.copytree(tiny, tmp_path / "prior")

    def environment(folder, out):
        sds2d.run(
            sds2d.parse(
                [
                    "--prior.path",
                    str(folder),
                    "--steps",
                    "1",
                    "--rep.kind",
                    "pixel",
                    "--rep.init-images",
                    str(tmp_path / "black.png"),
                    "--out",
                    str(tmp_path / out),
                ]
            )
        )
        return json.loads((tmp_path / out / "environment.json").read_text())

    first = environment(tiny, "one")
    assert first["torch"] == torch.__version__ and first["python"] == platform.python_version() and first["device"]
    assert first["images_sha256"] == {
        str(tmp_path / "black.png"): hashlib.sha256((tmp_path / "black.png").read_bytes()).hexdigest()
    }
    assert environment(twin, "two") == first, "wherever the checkpoint lies"
    weights = twin / "unet" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert environment(twin, "three")["prior_sha256"] != first["prior_sha256"], "one bit of the weights"


def test_the_commit_is_git_s():
    if not (ROOT / ".git").exists():
        assert commit() is None
        return
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert commit() in (head, head + "-dirty")


def test_a_config_is_repeated_with_another_prior_and_that_is_told(tiny, prior, tmp_path, capsys):
    sds2d.run(
        sds2d.parse(["--prior.path", str(tiny), "--steps", "1", "--particles", "1", "--out", str(tmp_path / "run")]),
        prior,
    )
    file = tmp_path / "run" / "environment.json"
    file.write_text(file.read_text().replace(prior.sha256, "0" * 64))
    settings = str(tmp_path / "run" / "config.yaml")
    for number, flags in enumerate((["--config", settings], [f"--config={settings}"])):
        sds2d.run(sds2d.parse([*flags, "--out", str(tmp_path / f"again{number}")]), prior)
        assert "warning: the prior's files differ" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(f"steps: 1\nprior: {{path: {tiny}}}\n")
    sds2d.run(sds2d.parse(["--config", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "mine")]), prior)
    assert "differ" not in capsys.readouterr().err, "settings of nobody's run"


def test_a_few_lines_of_yaml_are_enough(tiny, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"prompt: a fox\nsteps: 7\nrep: {{lr: 1e-3}}\nprior: {{path: {tiny}}}\n")
    config = sds2d.parse(["--config", str(tmp_path / "mine.yaml"), "--particles", "2"])
    assert (config.prompt, config.steps, config.rep.lr, config.particles) == (("a fox",), 7, 1e-3, 2)
    assert config.schedule.timestep == "uniform" and config.algo.guidance_scale == 100, "the rest by defaults"
    (tmp_path / "mine.yaml").write_text("stepz: 7\n")
    with pytest.raises(InputError, match="mine.yaml: .*stepz"):
        sds2d.parse(["--config", str(tmp_path / "mine.yaml")])


def test_run_takes_a_config_made_in_python(prior, tiny, tmp_path):
    config = Config(
        prompt=("a red apple",), steps=2, particles=1, prior=PriorConfig(path=str(tiny)), out=str(tmp_path / "run")
    )
    config.log.timesteps = ()
    before = copy.deepcopy(config)
    images, folder = sds2d.run(config, prior)
    assert images.shape == (1, 3, 64, 64) and (folder / "final.png").is_file()
    assert yaml.safe_load((folder / "config.yaml").read_text())["algo"]["guidance_scale"] == 100
    assert config == before, "the caller's own"
    same = sds2d.parse(["--config", str(tmp_path / "run/config.yaml"), "--out", str(tmp_path / "again")])
    assert torch.equal(sds2d.run(same, prior).images, images)


def test_what_is_set_stays_when_a_config_is_completed(tiny, tmp_path):
    """In one made in Python, a value of Config()'s own is not set; one of a command line is complete, as are its
    completions."""
    folder = shutil.copytree(tiny, tmp_path / "advised")
    (folder / "sds2d.json").write_text('{"sds": {"steps": 7, "schedule.shared_t": true}}')
    mine = Config(prior=PriorConfig(path=str(folder)), schedule=ScheduleConfig(shared_t=False, t_max=0.5))
    before = copy.deepcopy(mine)
    full = complete(mine)
    assert (full.steps, full.particles, full.schedule.shared_t, full.schedule.t_max) == (7, 4, True, 0.5)
    assert mine == before and full is not mine, "the caller's own is as it was"
    given = sds2d.parse(["--prior.path", str(folder), "--schedule.no-shared-t", "--schedule.t-max", "0.5"])
    assert (given.steps, given.schedule.shared_t) == (7, False)
    for config in (full, given):
        again = complete(config)
        assert again == config and again is not config and again.schedule is not config.schedule


@pytest.mark.parametrize(
    "wrong", [{"steps": "many"}, {"prompt": "a fox"}, {"prompt": ()}, {"seed": -1}, {"particles": 0}]
)
def test_a_wrong_config_is_an_input_error(wrong):
    with pytest.raises(InputError, match=f"--{next(iter(wrong))}"):
        sds2d.run(Config(**wrong))


def test_a_home_folder_is_expanded_everywhere(tiny, prior, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    common = ["--steps", "1", "--particles", "1", "--log.timesteps", "--prior.path", str(tiny)]
    edit = ["--algo.name", "dds", "--source-image", "~/noise.png", "--source-prompt", "a"]
    sds2d.run(sds2d.parse([*common, *edit, "--out=~/edit"]), prior)
    sds2d.run(sds2d.parse([*common, "--rep.init-images", "~/noise.png", "--out", "~/start"]), prior)
    for name in ("edit", "start"):
        assert (tmp_path / name / "video.mp4").is_file()
    config = sds2d.parse(["--config", "~/edit/config.yaml", "--eval.clip", "~/edit"])
    assert config.source_image == (str(tmp_path / "noise.png"),) and config.eval.clip == str(tmp_path / "edit")
    assert sds2d.parse_resume(["--resume", "~/edit"]).steps == 1
