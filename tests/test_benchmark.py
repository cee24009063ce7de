"""The tables: their numbers against formulas, and the commands from end to end on a few pictures."""

import csv
import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import benchmark
import benchmarks.scores
import sds2d
from benchmarks import pictures, shipped, speed, tables
from benchmarks.scores import (
    Frechet,
    Reference,
    frechet,
    interval,
    median,
    mixed,
    moments,
    rank_correlation,
    resampled,
    root,
    scores,
)
from benchmarks.stable_diffusion import save_random
from errors import InputError
from priors.checkpoint import EMBEDDED
from priors.prior import Prior, PriorConfig

# ------------------------------------------------------------------------------------------------------------ numbers


def test_frechet_distance_is_the_formula():
    """Against numpy's eigenvalues of Σ Σ', whose root has the trace of (Σ Σ')^½; and where the covariances commute,
    by hand."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((40, 6)) @ rng.standard_normal((6, 6)) for _ in range(2))
    one, other = ((torch.tensor(x.mean(0)), torch.tensor(np.cov(x.T, bias=True))) for x in (first, second))
    values = np.linalg.eigvals(np.cov(first.T, bias=True) @ np.cov(second.T, bias=True))
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = (
        apart
        + np.trace(np.cov(first.T, bias=True))
        + np.trace(np.cov(second.T, bias=True))
        - 2 * np.sqrt(values.real).sum()
    )
    assert frechet(one, other, root(other[1])) == pytest.approx(expected, rel=1e-9)
    a, b = torch.tensor([4.0, 1.0, 0.0]).double(), torch.tensor([1.0, 9.0, 0.25]).double()
    ends = (torch.tensor([1.0, 2, 0]).double(), a.diag()), (torch.zeros(3).double(), b.diag())
    assert frechet(*ends, root(b.diag())) == pytest.approx(1 + 4 + (2 - 1) ** 2 + (1 - 3) ** 2 + 0.5**2)


def test_moments_of_all_are_those_of_each_prompt_mixed():
    features = torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.tensor([0.4, 0, 0.2, 0.2, 0.2], dtype=torch.float64)
    mean, covariance = mixed(moments(features), weights)
    every = torch.cat([features[[0, 0, 2, 3, 4]]]).flatten(0, 1)
    torch.testing.assert_close(mean, every.mean(0))
    torch.testing.assert_close(covariance, torch.cov(every.T, correction=0))


def test_the_extrapolated_distance_is_that_of_many_pictures():
    """Four pictures of each prompt from the reference's own distribution are at a distance of 0, not at that of
    four; shifted ones at the shift's square."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(60, 1, 24, dtype=torch.float64, generator=generator)

    def pictures(count):
        return means + 0.7 * torch.randn(60, count, 24, dtype=torch.float64, generator=generator)

    uniform, reference, shift = (
        torch.full((60,), 1 / 60, dtype=torch.float64),
        Reference(pictures(400)),
        torch.full((24,), 0.2).double(),
    )
    for moved, expected in ((0, 0), (shift, 24 * 0.2**2)):
        found = torch.tensor([Frechet(pictures(4) + moved)(uniform, reference.at(uniform)) for _ in range(8)]).double()
        distance, raw = found.mean(0) - expected
        assert raw > 0.05 and abs(distance) < raw / 4


def test_intervals_cover_the_truth():
    generator = torch.Generator().manual_seed(0)
    replicates, covered = resampled(60), 0
    assert replicates.shape == (500, 60) and torch.allclose(replicates.sum(1), torch.ones(500).double())
    for _ in range(300):
        low, high = interval(replicates @ torch.randn(60, dtype=torch.float64, generator=generator))
        covered += low < 0 < high
    assert 270 <= covered <= 296, "95 % of 300 are 285, give or take 4"
    low, high = interval(torch.randn(4000, generator=generator) + 9, around=2.0)
    assert low == pytest.approx(2 - 1.96, abs=0.1) and high == pytest.approx(2 + 1.96, abs=0.1)


def test_a_median_with_weights_is_that_of_the_values_so_often():
    values, often = torch.tensor([3.0, 100.0, 1.0, 2.0]), torch.tensor([3, 1, 0, 5])
    assert median(values, often / 9) == values.repeat_interleave(often).median() == 2
    assert median(values, torch.tensor([0.2, 0.8, 0, 0])) == 100
    assert median(values.double(), torch.full((4,), 0.25).double()) == values.median() == 2


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 31]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3], [1, 3, 2]) == pytest.approx(0.5)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_scores_of_pictures():
    """Pictures of one colour, and a judge whose features are written by hand."""
    captions = {"names": {"all": ["a", "b"]}, "backgrounds": {"white": [255, 255, 255], "red": [255, 0, 0]}}
    images = torch.ones(2, 2, 3, 8, 8)
    images[1, :, 1:] = 0
    images[1, 1, 0] = 0.5
    features = torch.tensor([[1.0, 0], [0.6, 0.8], [1, 0], [1, 0]])
    judge = SimpleNamespace(image_features=lambda flat: features, ranks=lambda flat, wanted, captions: [0, 3, 7, 0])
    found = scores(images, judge, [("a", "white"), ("b", "red")], captions)
    assert found["features"].shape == (2, 2, 2)
    assert found["top1"].tolist() == [0.5, 0.5] and found["top5"].tolist() == [1, 0.5]
    assert found["background"].tolist() == [1, 1] and found["saturation"].tolist() == pytest.approx([0, 1])
    assert found["diversity"].tolist() == pytest.approx([0.4, 0])


# ----------------------------------------------------------------------------------------------------------- pictures


def test_a_row_is_made_anew_when_it_would_be_another(monkeypatch, tmp_path):
    def folder(*flags, prior="abc"):
        return pictures.row_folder(tmp_path, "sds latent", flags, prior)

    plain = folder()
    assert (
        plain == folder("--prompt", "a fox") == folder("--seed", "3") == folder("--log.every", "7")
        and plain.parent == tmp_path
    )
    assert (
        len(
            {
                plain,
                folder("--steps", "7"),
                folder("--rep.lr", "0.1"),
                folder("--rep.kind", "pixel"),
                folder(prior="abd"),
            }
        )
        == 5
    )


@pytest.mark.parametrize(
    "file, old, new",
    [
        ("algorithms/ism.py", "- noise_s", "+ noise_s"),
        ("algorithms/ddim_inversion.py", "k + 1)", "k + 2)"),
        ("algorithms/particles.py", "torch.randn, *shape", "torch.rand, *shape"),
        ("schedules/weight.py", "1 - schedule", "2 - schedule"),
        ("schedules/curves.py", "c * x**k", "c + x**k"),
        ("priors/prior.py", "alpha * z + sigma * noise", "alpha * z - sigma * noise"),
        ("representations/gaussian_kernels.py", "TILE = 16", "TILE = 8"),
    ],
)
def test_every_file_that_a_picture_depends_on_is_in_its_key(tmp_path, monkeypatch, file, old, new):
    for folder in ("algorithms", "representations", "schedules", "priors"):
        for source in (ROOT / folder).glob("*.py"):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "errors.py").write_text((ROOT / "errors.py").read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(pictures, "ROOT", tmp_path)
    files = [
        tmp_path / "algorithms/ism.py",
        tmp_path / "representations/gaussian2d.py",
        tmp_path / "schedules/schedule.py",
    ]
    before = pictures.source_code(files)
    text = (tmp_path / file).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / file).write_text(f"{text}\n# a remark\n", encoding="utf-8")
    (tmp_path / "algorithms/another.py").write_text("x = 1\n")
    assert pictures.source_code(files) == before, "remarks and other methods change no picture"
    (tmp_path / file).write_text(text.replace(old, new), encoding="utf-8")
    assert pictures.source_code(files) != before


def test_help(capsys):
    benchmark.main(["--help"])
    assert "quality" in capsys.readouterr().out
    for words in ([], ["qualitty"]):
        with pytest.raises(SystemExit) as end:
            benchmark.main(words)
        assert end.value.code == 2


@pytest.fixture
def readme(monkeypatch, tmp_path):
    file = tmp_path / "docs" / "BENCHMARKS.md"
    file.parent.mkdir()
    file.write_text("before\n<!-- quality -->\nold\n<!-- /quality -->\n<!-- edits -->\n\n<!-- /edits -->\nafter\n")
    monkeypatch.setattr(tables, "DOCS", file)
    monkeypatch.setattr(benchmarks.scores, "REPLICATES", 10)
    monkeypatch.setattr(shipped, "FILE", tmp_path / "quality.safetensors")
    return file


def test_quality_from_end_to_end(tmp_path, readme, monkeypatch, capsys):
    """Two rows, two prompts, a few steps: what each cell shows is what sds2d.py makes; what is there is not made
    again."""
    out = tmp_path / "out"
    command = [
        "quality",
        "--rows",
        "ddim",
        "sds",
        "--prompts",
        "2",
        "--workers",
        "1",
        "--out",
        str(out),
        "--write-docs",
        "--steps",
        "5",
    ]
    benchmark.main(command)
    text = (out / "quality.md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert readme.read_text().startswith(
        f"before\n<!-- quality -->\n\n{text.strip()}\n\n<!-- /quality -->\n<!-- edits -->\n\n<"
    )
    for kind in ("png", "csv"):
        assert (tmp_path / "assets" / f"quality.{kind}").read_bytes() == (out / f"quality.{kind}").read_bytes()
    rows = list(csv.DictReader((out / "quality.csv").open()))
    assert [row["row"] for row in rows] == ["real drawings", "ddim latent", "sds latent"] and rows[0]["seconds"] == ""
    assert float(rows[0]["top1"]) == 1 and all(
        float(row["top1_low"]) <= float(row["top1"]) <= float(row["top1_high"]) for row in rows
    )
    assert text.count("| ddim latent |") == 1 and "100 %" in text and "2 prompts × 4 particles" in text
    with Image.open(out / "quality.png") as chart:
        assert min(chart.size) > 500 and len(chart.convert("RGB").getcolors(10**6)) > 20

    (folder,) = out.glob("sds-latent-*")
    assert sorted(file.name for file in folder.iterdir()) == ["00.png", "01.png"]
    prompts = json.loads((EMBEDDED / "real" / "prompts.json").read_text())
    flags = [
        "--prompt",
        f"{prompts[1][0]} on a {prompts[1][1]} background",
        "--seed",
        "4",
        "--steps",
        "5",
        "--out",
        str(tmp_path / "run"),
    ]
    sds2d.run(sds2d.parse([*flags, "--log.timesteps", "--eval.clip", "none"]))
    with Image.open(folder / "01.png") as cell, Image.open(tmp_path / "run" / "final_02.png") as picture:
        assert np.array_equal(np.asarray(cell)[:, 128:192], np.asarray(picture.convert("RGB")))

    made = []
    make_cell = pictures.make_cell
    monkeypatch.setattr(pictures, "make_cell", lambda cell: (made.append(cell.file.name), make_cell(cell)))
    (folder / "01.png").unlink()
    benchmark.main([*command, "--no-shipped"])
    assert made.pop() == "01.png" and not made

    # What ships stands in for pictures: of another folder, for more prompts than it is of, and not for other ones.
    (out := tmp_path / "other").mkdir()
    command[command.index("--out") + 1] = str(out)
    benchmark.main(command)
    assert not made and (out / "quality.csv").is_file() and not list(out.glob("*/*.png"))
    assert numbers(out / "quality.md") == pytest.approx(numbers(tmp_path / "out" / "quality.md"), abs=2e-3), (
        "features of 16 bits"
    )
    command[command.index("--prompts") + 1] = "3"
    benchmark.main([word for word in command if word != "--write-docs"])
    assert made == ["02.png"] * 2
    assert [len(scores["features"]) for scores in shipped.read(prompts).values()] == [2, 2]
    monkeypatch.setattr(shipped, "read", lambda prompts, read=shipped.read: read(prompts[::-1]))
    benchmark.main(command)
    assert sorted(made) == ["00.png"] * 2 + ["01.png"] * 2 + ["02.png"] * 2


def test_scores_that_ship_are_not_lost_to_a_smaller_table(readme):
    def of(count, value=0.5):
        return {"top1": torch.full((count,), value).double(), "features": torch.ones(count, 2, 3).double()}

    def kept():
        return {
            name: (len(scores["features"]), scores["top1"][0].item()) for name, scores in shipped.read(prompts).items()
        }

    prompts = [("a cat", "white"), ("a dog", "red")]
    shipped.keep({"sds-latent-1": of(2), "vsd-latent-1": of(2)}, prompts)
    shipped.keep({"sds-latent-1": of(1, 0.25)}, prompts)
    assert kept() == {"sds-latent-1": (2, 0.5), "vsd-latent-1": (2, 0.5)}
    shipped.keep({"sds-latent-2": of(1), "sds-pixel-1": of(1), "vsd-latent-1": of(2, 0.75)}, prompts)
    assert kept() == {"sds-latent-2": (1, 0.5), "sds-pixel-1": (1, 0.5), "vsd-latent-1": (2, 0.75)}
    shipped.keep({"sds-latent-2": of(1)}, prompts[::-1])
    assert kept() == {}, "of other prompts"


def numbers(file):
    """All that a table says in numbers."""
    return [float(number) for number in re.findall(r"-?\d+\.\d+|\d+", file.read_text())]


@pytest.mark.slow
def test_edits_from_end_to_end(tmp_path, readme, capsys):
    """Without a step's difference the source is what it was; the drawn target is what the edits ask for."""
    benchmark.main(
        [
            "edits",
            "--rows",
            "sds",
            "--workers",
            "1",
            "--out",
            str(tmp_path / "out"),
            "--steps",
            "1",
            "--rep.optimizer",
            "sgd",
            "--rep.lr",
            "1e-9",
            "--write-docs",
        ]
    )
    assert "| sds latent |" in capsys.readouterr().out and "| sds latent |" in readme.read_text()
    rows = {row["row"]: row for row in csv.DictReader((tmp_path / "out" / "edits.csv").open())}
    untouched, drawn, sds = (rows[name] for name in ("the source as it is", "the drawn target", "sds latent"))
    assert float(untouched["outside"]) == float(untouched["directional"]) == 0 and float(untouched["target"]) < 0.3
    assert float(drawn["target"]) > 0.9 and float(drawn["background"]) == 1 and float(drawn["directional"]) > 50
    assert float(drawn["outside"]) < 1
    assert 0 < float(sds["outside"]) < 5 and float(sds["seconds"]) > 0, "what the autoencoder loses"


WRONG = [
    ("quality --rows sds dds", "--rows dds"),
    ("quality --prompts 1", "--prompts 1"),
    ("quality --workers 0", "--workers 0"),
    ("quality sds", "sds"),
    ("quality --prior.path {tiny}", "--prior.path {tiny}"),
    ("edits --rows cat", "--rows cat"),
    ("edits --prior.path {tiny}", "--prior.path {tiny}"),
    ("edits --rep.lr x", "--rep.lr"),
    ("rasterizer --steps 3", "--steps 3"),
]


@pytest.mark.parametrize("words, fact", WRONG)
def test_wrong_input(words, fact, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word.format(tiny=tiny) for word in words.split()]
    if "--prior.path" not in words and words[0] != "rasterizer":
        words += ["--prior.path", str(EMBEDDED)]
    with pytest.raises(SystemExit) as end:
        benchmark.main(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and fact.format(tiny=tiny) in error and "Traceback" not in error
    assert error.startswith("benchmark.py: ") and error.count("\n") == 1 or "full helptext" in error
    assert not list(tmp_path.iterdir())


def test_readme_without_its_marks(readme):
    with pytest.raises(InputError, match="<!-- speed -->"):
        tables.write_docs("speed", "text")
    assert "old" in readme.read_text()


# -------------------------------------------------------------------------------------------------------------- speed


def test_speed_prints_its_table(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "alone", lambda flags, rounds, *rest: speed.measure(flags, 1, *rest))
    prior = Prior(PriorConfig(path=str(tiny)))
    monkeypatch.setattr(speed, "Prior", lambda config: prior)
    paired = speed.paired
    monkeypatch.setattr(speed, "paired", lambda ours, bare, rounds: paired(ours, bare, rounds, warmup=0))
    benchmark.main(
        ["speed", "--prior.path", str(tiny), "--particles", "1", "--no-variants", "--out", str(tmp_path / "out")]
    )
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0][:3]] == ["method", "representation", "calls"]
    assert {row[0].strip(): row[2].strip() for row in rows[2:-2]} == {
        "sds": "2B",
        "vsd": "2B + 1B + 1B",
        "ism": "1B + 1B + 1B + 1B + 2B",
        "dds": "4B",
        "pds": "4B",
        "csd": "2B",
        "nfsd": "3B",
        "sdi": " + ".join(["2B"] * 6),
        "bridge": "2B",
        "ddim": "2B",
        "sdedit": "2B",
    }
    assert [[cell.strip() for cell in row[:2]] for row in rows[-2:]] == [["sds", "pixel"], ["sds", "gaussian2d"]]
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[3:])


def test_when_compilation_pays(tiny, monkeypatch):
    """10 ms a step saved, 20 s spent: 2,000 steps."""
    answers = iter([(0.05, 1.0), (0.04, 21.0), (0.04, 1.0), (0.06, 31.0)])
    monkeypatch.setattr(speed, "alone", lambda *given: dict(zip(("ours", "first"), next(answers), strict=True)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    lines = list(speed.variants_table(["--prior.path", str(tiny)], 1))
    ends = [line.split("|")[-2].strip() for line in lines[2:-1]]
    assert ends == ["-", "2,000 steps", "at once", "never"]


def test_random_stable_diffusion_has_its_layout(tmp_path):
    small = dict(block_out_channels=(8, 16, 16, 16), norm_num_groups=8)
    text = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=32)
    folder = save_random(
        tmp_path / "sd", dict(**small, sample_size=8, cross_attention_dim=32), dict(**small, sample_size=64), text
    )
    images = sds2d.run(
        sds2d.parse(
            [
                "--prior.path",
                str(folder),
                "--steps",
                "1",
                "--particles",
                "1",
                "--out",
                str(tmp_path / "run"),
                "--log.timesteps",
            ]
        )
    )
    assert images.shape == (1, 3, 64, 64) and images.isfinite().all()
