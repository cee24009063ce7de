"""The embedded prior is what it says it is, and the default run obeys the prompt on it."""

import csv
import json

import pytest
from PIL import Image

import sds2d
import sweep
from priors.checkpoint import Checkpoint, PriorConfig
from priors.files import EMBEDDED
from recording.scores import Judge, background_colours, draw_prompts, with_background

CAPTIONS = json.loads((EMBEDDED / "captions.json").read_text())


@pytest.fixture(scope="module")
def prior():
    return Checkpoint(PriorConfig())


@pytest.mark.parametrize(
    "name, kind",
    [*((name, "latent") for name, cls in sds2d.ALGORITHMS.items() if not cls.is_sampler), ("sds", "pixel")],
)
def test_its_advice_leaves_every_start_open(name, kind):
    picture = str(EMBEDDED / "edits" / "15_source.png")
    edit = ["--source-image", picture, "--source-prompt", "a red apple"] if sds2d.ALGORITHMS[name].edits else []
    for init, *flags in (
        ("constant", "--rep.init-color", "0", "0", "1"),
        ("image", "--rep.init-images", picture),
        ("noise", "--rep.init-std", "0.5"),
    ):
        for given in ([f"--rep.init={init}"], []):
            config = sds2d.parse(["--algo.name", name, "--rep.kind", kind, *edit, *given, *flags])
            assert config.rep.init == init
    assert sds2d.parse(["--algo.name", name, "--rep.kind", kind, *edit, "--rep.init", "constant"]).rep.init_std is None


def test_weights_are_small_and_safe():
    files = [file for file in EMBEDDED.rglob("*") if file.is_file()]
    weights = [file for file in files if file.suffix == ".safetensors"]
    assert sum(file.stat().st_size for file in weights) <= 32e6
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt", ".md", ".png"}


def test_diffusers_samples_from_it():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline("a red apple", num_inference_steps=2, output_type="pt").images
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"


def test_what_is_read_from_it(prior):
    assert prior.latent_shape == (4, 16, 16) and prior.image_size == (64, 64) and prior.conditions.text_length == 32
    assert prior.noising.prediction_type == "epsilon" and prior.num_train_timesteps == 1000
    assert prior.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)


def test_it_knows_its_own_captions(prior):
    names = [phrase for pile in CAPTIONS["names"].values() for phrase in pile]
    assert len(set(names)) >= 200
    for phrase in names:
        assert prior.warnings(f"{phrase} on a blue background in flat style") == []
    assert "zebra" in prior.warnings("a zebra")[0]


def test_the_default_run_obeys(prior, tmp_path):
    """The README's first command. `python -m benchmarks quality` is the measurement; this only sees that it works."""
    images, _ = sds2d.run(sds2d.parse(["--out", str(tmp_path / "run")]), prior)
    pairs = [("a red apple", "white")] * 4
    ranks = Judge(EMBEDDED / "clip").ranks(images, pairs, CAPTIONS)
    # Of over 200 names, chance puts 0.1 of 4 pictures among the best five.
    assert sum(rank < 5 for rank in ranks) >= 3, ranks
    assert background_colours(images, CAPTIONS) == ["white"] * 4
    assert Image.open(tmp_path / "run" / "final_00.png").size == (64, 64)


@pytest.mark.slow
def test_other_prompts_obey_on_pixels(prior, tmp_path):
    """Four prompts over the categories, by the defaults."""
    pairs = draw_prompts(CAPTIONS, 4, seed=7)
    texts = [with_background(*pair) for pair in pairs]
    flags = ["--rep.kind", "pixel", "--prompt", *texts, "--particles", "1", "--out", str(tmp_path / "run")]
    images, _ = sds2d.run(sds2d.parse(flags), prior)
    ranks = Judge(EMBEDDED / "clip").ranks(images, pairs, CAPTIONS)
    assert sum(rank < 5 for rank in ranks) >= 2, list(zip(texts, ranks, strict=True))
    right = [seen == asked for seen, (_, asked) in zip(background_colours(images, CAPTIONS), pairs, strict=True)]
    assert sum(right) >= 3


def test_what_it_can_not_use_is_said(prior, tmp_path, capsys):
    """On the screen, in environment.json and on the page: a word that it was never taught, and a picture that its
    autoencoder does not give back; of its own drawings and words nothing."""
    Image.effect_noise((64, 64), 80).save(tmp_path / "noise.png")
    own = str(EMBEDDED / "edits" / "15_source.png")
    for index, (prompt, source, count) in enumerate([("a zebra", str(tmp_path / "noise.png"), 2), ("a lemon", own, 0)]):
        flags = ["--algo.name", "dds", "--source-image", source, "--source-prompt", "a red apple", "--prompt", prompt]
        out = tmp_path / f"run{index}"
        sds2d.run(sds2d.parse([*flags, "--steps", "1", "--log.timesteps", "--out", str(out)]), prior)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
        recorded = json.loads((out / "environment.json").read_text())["warnings"]
        assert len(recorded) == count and lines == [f"warning: {line}" for line in recorded]
        assert (out / "index.html").read_text().count('class="warning"') == count


def test_a_sweep_marks_what_the_prior_does_not_know(tmp_path, monkeypatch):
    out = tmp_path / "sweep"
    flags = ["--steps", "1", "--particles", "1", "--log.timesteps", "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["sweep.py", "--prompt", "a zebra", "--prompt", "a lemon", *flags])
    with pytest.raises(SystemExit):
        sweep.main()
    with open(out / "results.csv", encoding="utf-8") as file:
        marks = [row["warnings"] for row in csv.DictReader(file)]
    assert "zebra" in marks[0] and marks[1] == ""
    assert "never taught: zebra" in (out / "index.html").read_text()
