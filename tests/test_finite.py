"""What is not finite ends a run, and is named with its step, timestep and particle; nothing is masked."""

import re

import pytest
import torch
from conftest import GaussianPrior

import sds2d
from priors.checkpoint import Checkpoint, PriorConfig
from recording import checkpoint
from recording.pictures import to_pillow


@pytest.fixture
def gaussian():
    return GaussianPrior({"": (0.1, 0.0), "cat": (0.4, 0.0)})


@pytest.fixture
def go(tiny, tmp_path):
    def call(prior, *flags):
        base = [
            "--prior.path",
            str(tiny),
            "--prompt",
            "cat",
            "--particles",
            "2",
            "--steps",
            "8",
            "--log.every",
            "2",
            "--log.timesteps",
        ]
        return sds2d.run(sds2d.parse([*base, *map(str, flags), "--out", str(tmp_path / "run")]), prior).images

    return call


def breaks(function, call, row, value=float("nan")):
    """The function, whose result has that value in that row from that call on."""

    def broken(*arguments, **options):
        output = function(*arguments, **options)
        broken.calls += 1
        if broken.calls >= call:
            output = output.clone()
            output[row] = value
        return output

    broken.calls = 0
    return broken


def stands_at(folder, step):
    """The checkpoint is of that step, and all in it is finite; pictures and numbers before it are there, and no
    final ones."""
    state = torch.load(folder / checkpoint.NAME, weights_only=True)
    kept = [value for each in state["optimizer"]["state"].values() for value in each.values()]
    assert all(value.isfinite().all() for value in (*state["parameters"], *kept))
    assert state["step"] == step
    assert len((folder / "metrics.jsonl").read_text().splitlines()) >= step
    assert (
        (folder / "index.html").is_file() and not (folder / "final.png").exists() and not list(folder.rglob(".*.part*"))
    )
    assert "final.png" not in (folder / "index.html").read_text()


def test_a_prediction(go, gaussian, tmp_path, monkeypatch):
    monkeypatch.setattr(
        gaussian, "model_output", breaks(gaussian.model_output, 6, 3)
    )  # the second particle's conditional prediction
    with pytest.raises(
        FloatingPointError, match=r"^step 5, timestep \d+, particle 1: the gradient is not finite; use a lower "
    ):
        go(gaussian)
    stands_at(tmp_path / "run", 4)


@pytest.mark.parametrize("kind", sds2d.REPRESENTATIONS)
def test_a_parameter(go, gaussian, tmp_path, kind):
    """An update that float32 cannot hold, at once; also where a projection follows it."""
    flags = ["--rep.optimizer", "sgd", "--rep.lr", "9e29", "--algo.guidance-scale", "1e12"]
    with pytest.raises(FloatingPointError, match="^step 0, all particles: the state of the parameters is not finite"):
        go(gaussian, "--rep.kind", kind, *flags)
    assert not (tmp_path / "run" / checkpoint.NAME).exists()


@pytest.mark.parametrize("kind", ["pixel", "gaussian2d"])
def test_encoded_latents(go, gaussian, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(gaussian, "encode", breaks(gaussian.encode, 4, 1, float("inf")))
    with pytest.raises(
        FloatingPointError, match=r"^step 3, timestep \d+, particle 1: the latent is not finite; use a lower "
    ):
        go(gaussian, "--rep.kind", kind)
    stands_at(tmp_path / "run", 2)


def test_a_lora(go, tiny, monkeypatch):
    update = sds2d.ALGORITHMS["vsd"].update

    def learn(self, *arguments):
        update(self, *arguments)
        with torch.no_grad():
            self.weights[-1].view(-1)[0] = float("nan")

    monkeypatch.setattr(sds2d.ALGORITHMS["vsd"], "update", learn)
    with pytest.raises(
        FloatingPointError, match="^step 0, all particles: the state of the part that the method learns is not finite"
    ):
        go(Checkpoint(PriorConfig(path=str(tiny))), "--algo.name", "vsd")


def test_what_the_optimizer_remembers(go, gaussian, tmp_path):
    """Gradients whose squares float32 cannot hold: Adam would stand still, and nobody would know."""
    with pytest.raises(FloatingPointError, match="^step 0, all particles: the state of the parameters is not finite"):
        go(gaussian, "--schedule.weight", "linear", "--schedule.weight-ends", "1e25", "1e25")
    assert not (tmp_path / "run" / checkpoint.NAME).exists()


def test_a_picture_in_float16(go, tiny, tmp_path):
    """An autoencoder that overflows in float16 and not in float32, as Stable Diffusion XL's does."""
    for dtype in ("float16", "float32"):
        prior = Checkpoint(PriorConfig(path=str(tiny), dtype=dtype))
        with torch.no_grad():
            prior.autoencoder.vae.decoder.conv_norm_out.weight *= 1e6  # and back to size, where float32 still has it
            prior.autoencoder.vae.decoder.conv_out.weight /= 1e6
        if dtype == "float32":
            assert go(prior).isfinite().all()
        else:
            cause = r"float16 ends at 65,504: use --prior.dtype bfloat16 or float32"
            with pytest.raises(
                FloatingPointError, match=rf"^before step 0, particle 0: the decoded picture is not finite; {cause}"
            ):
                go(prior)
            (tmp_path / "run").rename(tmp_path / "half")


def test_the_command_says_it_in_a_line(tiny, tmp_path, command):
    done = command(
        "--prior.path",
        tiny,
        "--rep.optimizer",
        "sgd",
        "--rep.lr",
        "9e29",
        "--algo.guidance-scale",
        "1e10",
        "--steps",
        3,
        "--out",
        tmp_path / "run",
    )
    error = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("sds2d.py: ")]
    assert done.returncode == 1 and len(error) == 1 and re.match(r"sds2d.py: step 0, all particles: ", error[0])
    assert (tmp_path / "run" / "index.html").is_file()


def test_pictures_do_not_hide_it():
    image = torch.full((3, 1, 3), 0.5)
    image[1, 0, 1], image[2, 0, 2] = float("nan"), float("inf")
    assert [to_pillow(image).getpixel((x, 0)) for x in range(3)] == [(128, 128, 128), (255, 0, 255), (255, 0, 255)]
