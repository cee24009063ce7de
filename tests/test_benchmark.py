"""The tables: their numbers against formulas, and the commands from end to end on a few pictures."""

import csv
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from safetensors.torch import save_file

import benchmarks.__main__ as benchmark
import benchmarks.scores
import sds2d
from benchmarks import pictures, quality, search, speed, tables
from benchmarks.scores import distances, frechet, interval, median, mixed, moments, resampled, root, scores
from errors import InputError
from priors.checkpoint import Checkpoint, PriorConfig
from priors.files import EMBEDDED

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

    uniform, reference = torch.full((1, 60), 1 / 60, dtype=torch.float64), pictures(400)
    shift = torch.full((24,), 0.2).double()
    for moved, expected in ((0, 0), (shift, 24 * 0.2**2)):
        found = torch.cat([distances(pictures(4) + moved, reference, uniform) for _ in range(8)])
        every = mixed(moments(reference), uniform[0])
        raw = frechet(mixed(moments(pictures(4) + moved), uniform[0]), every, root(every[1])) - expected
        assert raw > 0.05 and abs(found.mean() - expected) < raw / 4


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


def test_differences_are_paired():
    """Of two rows that vary by prompt in the same way, the difference is known far better than either."""
    weights = torch.cat([torch.full((1, 60), 1 / 60).double(), resampled(60)])
    generator = torch.Generator().manual_seed(0)
    prompts = torch.rand(60, dtype=torch.float64, generator=generator)
    shifted = prompts + 0.05 + 0.01 * torch.randn(60, dtype=torch.float64, generator=generator)
    base, row = ({key: weights @ x for key in quality.COMPARED} for x in (prompts, shifted))
    found = quality.differences({quality.BASE: base, "row": row, "same": base})
    value, low, high = found["row"]["top1"]
    assert value == pytest.approx((shifted - prompts).mean().item()) and 0.04 < low < value < high < 0.06
    _, low, high = quality.intervals(row)["top1"]
    assert high - low > 0.1
    lines = tables.markdown(found, quality.DIFFERENCES).splitlines()
    assert lines[2].count("**") == 6, "all three are bold"
    assert "same" in lines[3] and "**" not in lines[3]


def test_a_median_with_weights_is_that_of_the_values_so_often():
    values, often = torch.tensor([3.0, 100.0, 1.0, 2.0]), torch.tensor([3, 1, 0, 5])
    assert median(values, often / 9) == values.repeat_interleave(often).median() == 2
    assert median(values, torch.tensor([0.2, 0.8, 0, 0])) == 100
    assert median(values.double(), torch.full((4,), 0.25).double()) == values.median() == 2


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


def test_a_cell_is_another_when_its_picture_would_be(tmp_path):
    def cell(*given, row="sds latent", prior="abc", **settings):
        (cell,) = pictures.cells(tmp_path, list(given), row, [{"prompt": ("a fox",), "seed": 4} | settings], prior)
        return cell.file

    plain = cell()
    assert plain == cell("--log.every", "7") == cell("--eval.clip", "none") and plain.is_relative_to(tmp_path)
    others = [cell("--steps", "7"), cell("--rep.lr", "0.1"), cell(row="sds pixel"), cell(prior="abd"), cell(seed=5)]
    others += [cell(prompt=("a cat",)), cell("--prior.dtype", "bfloat16")]
    assert len({plain, *others}) == 8


def test_a_cell_is_another_when_its_source_picture_is(tmp_path):
    source, cells = tmp_path / "source.png", []
    for color in ("red", "blue", "red"):
        Image.new("RGB", (64, 64), color).save(source)
        run = {"prompt": ("a fox",), "rep.init": "image", "rep.init_images": (str(source),)}
        cells += pictures.cells(tmp_path, [], "sds latent", [run], "abc")
    assert cells[0].file == cells[2].file != cells[1].file


def test_a_config_reaches_other_processes():
    config = sds2d.parse(["--algo.name", "vsd", "--algo.vsd.lora-rank", "3"])
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.slow
def test_workers_make_what_one_process_makes(tmp_path):
    runs = [{"prompt": ("a fox",), "seed": seed, "particles": 1} for seed in (0, 1, 2)]
    sheets = []
    for workers in (1, 2):
        cells = pictures.cells(tmp_path / str(workers), ["--steps", "2"], "sds latent", runs, "abc")
        pictures.make_pictures([cells], workers)
        sheets.append(pictures.load_pictures(cells)[0])
    assert (sheets[0] - sheets[1]).abs().max() <= 1 / 255


def test_the_scores_that_ship_are_those_of_the_table():
    """Every row of the table in the docs has its scores under the name of its first cell. When settings get other
    names or defaults, the cells in quality.safetensors need other names, too."""
    truth, shipped = tables.Truth(str(EMBEDDED), "real/prompts.json"), quality.read_shipped()
    with open(ROOT / "assets" / "quality.csv", encoding="utf-8") as file:
        rows = [line["row"] for line in csv.DictReader(file) if line["row"] != quality.REAL]
    runs = pictures.prompt_runs([tuple(case) for case in truth.cases])
    assert len(shipped) == len(rows) * len(runs)
    for row in rows:
        (cell,) = pictures.cells(Path("outputs"), [], row, runs[:1], truth.sha256)
        assert cell.file.stem in shipped, row


@pytest.mark.slow
@pytest.mark.parametrize("row", ["sds latent", "ddim latent", "sdi latent"])
def test_what_ships_is_what_is_made(row, tmp_path):
    """The code is not in a cell's name, so this finds scores that it no longer makes.

    Features ship in float16, which rounds numbers below 1 by up to 2^-12; as much again is for single pixels that
    another processor's sums round to the next of 256 levels. Between two methods' pictures, they differ by 0.15.
    """
    truth, shipped = tables.Truth(str(EMBEDDED), "real/prompts.json"), quality.read_shipped()
    prompts = [tuple(case) for case in truth.cases[:1]]
    (cell,) = pictures.cells(tmp_path, [], row, pictures.prompt_runs(prompts), truth.sha256)
    pictures.make_pictures([[cell]], workers=1)
    images, _ = pictures.load_pictures([cell])
    found = scores(images, truth.judge, prompts, truth.captions)
    expected = shipped[cell.file.stem]
    assert expected.keys() == found.keys() | {"seconds"}
    for key, values in found.items():
        torch.testing.assert_close(values[0], expected[key], rtol=0, atol=2**-11, msg=f"{row}: {key}")


def test_help(capsys):
    benchmark.main(["--help"])
    assert "quality" in capsys.readouterr().out
    for words in ([], ["qualitty"]):
        with pytest.raises(SystemExit) as end:
            benchmark.main(words)
        assert end.value.code == 2
    command = [sys.executable, "-m", "benchmarks", "speed", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "python -m benchmarks speed" in shown and "--rounds" in shown


@pytest.fixture
def readme(monkeypatch, tmp_path):
    file = tmp_path / "docs" / "BENCHMARKS.md"
    file.parent.mkdir()
    file.write_text("before\n<!-- quality -->\nold\n<!-- /quality -->\n<!-- edits -->\n\n<!-- /edits -->\nafter\n")
    (tmp_path / "assets").mkdir()
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(benchmarks.scores, "REPLICATES", 10)
    monkeypatch.setattr(quality, "SHIPPED", tmp_path / "quality.safetensors")
    save_file({}, quality.SHIPPED, {"cells": "[]"})
    return file


def test_one_cell_has_a_process_of_its_own(tmp_path, monkeypatch):
    """Its seconds are those of one core, however many cells are missing; one worker is this process."""
    counts = []
    monkeypatch.setattr(
        pictures, "in_processes", lambda function, calls, count, threads: counts.append((count, threads)) or []
    )
    for workers in (1, 2):
        pictures.make_pictures([[pictures.Cell(tmp_path / "cell.png", sds2d.parse([]))]], workers)
    assert counts == [(1, 1), (2, 1)]
    with pytest.raises(InputError, match="--prior.device cuda:1"):  # Each process would see one GPU, cuda:0.
        pictures.make_pictures([[pictures.Cell(tmp_path / "cell.png", sds2d.parse(["--prior.device", "cuda:1"]))]], 2)


@pytest.mark.slow
def test_quality_from_end_to_end(tmp_path, readme, monkeypatch, capsys):
    """Two rows, two prompts, a few steps: what each cell shows is what sds2d.py makes; what is there is not made
    again."""
    out = tmp_path / "out"
    command = ["quality", "--rows", "ddim", "sds", "--prompts", "2", "--workers", "1", "--out", str(out)]
    command += ["--write-docs", "--steps", "5"]
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
    assert (
        text.count("| ddim latent |") == 2
        and "Differences to sds latent" in text
        and "100%" in text
        and "2 prompts × 4 particles" in text
    )
    with Image.open(out / "quality.png") as chart:
        assert chart.width > 1000 and len(chart.convert("RGB").getcolors(10**6)) > 20

    cells = sorted((out / "sds-latent").iterdir())
    assert [file.name[:3] for file in cells] == ["00-", "01-"]
    prompts = json.loads((EMBEDDED / "real" / "prompts.json").read_text())
    flags = ["--prompt", f"{prompts[1][0]} on a {prompts[1][1]} background", "--seed", "4", "--steps", "5"]
    flags += ["--out", str(tmp_path / "run")]
    sds2d.run(sds2d.parse([*flags, "--log.timesteps", "--eval.clip", "none"]))
    with Image.open(cells[1]) as cell, Image.open(tmp_path / "run" / "final_02.png") as picture:
        assert np.array_equal(np.asarray(cell)[:, 128:192], np.asarray(picture.convert("RGB")))

    made = []
    make_cell = pictures.make_cell
    monkeypatch.setattr(pictures, "make_cell", lambda cell: (made.append(cell.file.name[:2]), make_cell(cell)))
    cells[1].unlink()
    benchmark.main([*command, "--no-shipped"])
    assert made.pop() == "01" and not made

    # What ships stands in for pictures: for these prompts, and not for other ones.
    (out := tmp_path / "other").mkdir()
    command[command.index("--out") + 1] = str(out)
    benchmark.main(command)
    assert not made and (out / "quality.csv").is_file() and not list(out.glob("*/*.png"))
    # Their features have 16 bits.
    assert numbers(out / "quality.md") == pytest.approx(numbers(tmp_path / "out" / "quality.md"), abs=2e-3)
    command[command.index("--prompts") + 1] = "3"
    benchmark.main([word for word in command if word != "--write-docs"])
    assert made == ["02"] * 2 and len(quality.read_shipped()) == 4
    benchmark.main([*(word for word in command if word != "--write-docs"), "--negative-prompt", "a dog"])
    assert sorted(made[2:]) == sorted(["00", "01", "02"] * 2)


def test_the_papers_settings_stand_beside_the_defaults(tmp_path, readme, monkeypatch):
    """In a table of its own, which leaves the shipped scores alone."""
    readme.write_text("<!-- quality -->\n<!-- /quality -->\n<!-- paper -->\n<!-- /paper -->\n")
    command = ["quality", "--rows", "sds", "--prompts", "2", "--workers", "1", "--write-docs", "--steps", "2"]
    command += ["--out", str(tmp_path / "out")]
    benchmark.main(command)
    shipped, guidance, make_cell = quality.SHIPPED.read_bytes(), [], pictures.make_cell
    monkeypatch.setattr(
        pictures, "make_cell", lambda cell: (guidance.append(cell.config.algo.guidance_scale), make_cell(cell))
    )
    benchmark.main([*command, "--paper"])
    assert guidance == [100, 100] and quality.SHIPPED.read_bytes() == shipped
    rows = [row["row"] for row in csv.DictReader((tmp_path / "assets" / "paper.csv").open())]
    assert rows == ["real drawings", "sds latent", "sds latent, paper"]
    assert readme.read_text().count("| sds latent, paper |") == 1


def numbers(file):
    """All that a table says in numbers."""
    return [float(number) for number in re.findall(r"-?\d+\.\d+|\d+", file.read_text())]


@pytest.mark.slow
def test_edits_from_end_to_end(tmp_path, readme, capsys):
    """Without a step's difference the source is what it was; the drawn target is what the edits ask for."""
    command = ["edits", "--rows", "sds", "--workers", "1", "--out", str(tmp_path / "out"), "--write-docs"]
    benchmark.main([*command, "--steps", "1", "--rep.optimizer", "sgd", "--rep.lr", "1e-9"])
    assert "| sds latent |" in capsys.readouterr().out and "| sds latent |" in readme.read_text()
    rows = {row["row"]: row for row in csv.DictReader((tmp_path / "out" / "edits.csv").open())}
    untouched, drawn, sds = (rows[name] for name in ("the source as it is", "the drawn target", "sds latent"))
    assert float(untouched["outside"]) == float(untouched["directional"]) == 0 and float(untouched["target"]) < 0.3
    assert float(drawn["target"]) > 0.9 and float(drawn["background"]) == 1 and float(drawn["directional"]) > 50
    assert float(drawn["outside"]) < 0.01
    assert 0 < float(sds["outside"]) < 0.05 and float(sds["seconds"]) > 0, "what the autoencoder loses"


@pytest.mark.slow
def test_search_from_end_to_end(tmp_path, capsys):
    """The better of two rates is the one that does something; none of its prompts is in the table."""
    command = "search --algo.name cfd --rep.lr 1e-9 0.3 --algo.cfd.gamma 0.5 --steps 12 --prompts 4 --workers 1"
    benchmark.main([*command.split(), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    best = {"rep.lr": 0.3, "algo.cfd.gamma": 0.5, "steps": 12}
    assert json.loads(f"{{{lines[-1]}}}") == {"cfd latent": best}
    counts = [int(line.split()[0]) for line in lines[:-1]]
    assert counts == [1, 1, 2, 4]


@pytest.mark.parametrize("row", ["sds latent", "sds bezier"])
def test_defaults_are_written_a_line_a_row(row, tmp_path):
    file = tmp_path / "sds2d.json"
    file.write_text((EMBEDDED / "sds2d.json").read_text())
    after = json.loads(file.read_text()) | {row: {"rep.lr": 0.3}}
    search.write_defaults(file, row, {"rep.lr": 0.3})
    assert json.loads(file.read_text()) == after
    assert len(file.read_text().splitlines()) == len(after) + 2


WRONG = [
    ("search --algo.name sds vsd --rep.lr 1 2", "sds vsd"),
    ("quality --rows sds|latent|too", "sds latent too"),
    ("search --algo.name cfd --rep.lr 1", "nothing is swept"),
    ("quality --rows sds dds", "--rows dds"),
    ("quality --prompts 1", "--prompts 1"),
    ("quality --workers 0", "--workers 0"),
    ("quality --seed 3", "--seed"),
    ("quality --quick --write-docs", "--quick"),
    ("edits --prompt cat", "--prompt"),
    ("quality sds", "sds"),
    ("quality --prior.path {tiny}", "--prior.path {tiny}"),
    ("edits --rows cat", "--rows cat"),
    ("edits --prior.path {tiny}", "--prior.path {tiny}"),
    ("edits --rep.lr x", "--rep.lr"),
    ("speed --rows cat", "--rows cat"),
    ("edits --rows dds|cat", "--rows dds cat"),
]


@pytest.mark.parametrize("words, fact", WRONG)
def test_wrong_input(words, fact, tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word.format(tiny=tiny).replace("|", " ") for word in words.split()]
    if "--prior.path" not in words:
        words += ["--prior.path", str(EMBEDDED)]
    with pytest.raises(SystemExit) as end:
        benchmark.main(words)
    error = capsys.readouterr().err
    assert end.value.code == 2 and fact.format(tiny=tiny) in error and "Traceback" not in error
    assert error.startswith("python -m benchmarks: ") and error.count("\n") == 1 or "full helptext" in error
    assert not list(tmp_path.iterdir())


def test_docs_without_their_marks(readme, tmp_path):
    with pytest.raises(InputError, match="<!-- speed -->"):
        tables.report("speed", "text", tables.Options(out=tmp_path, write_docs=True))
    assert "old" in readme.read_text()


# -------------------------------------------------------------------------------------------------------------- speed


@pytest.mark.slow
def test_speed_prints_its_table(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(speed, "alone", lambda flags, rounds: speed.measure(flags, 1))
    prior = Checkpoint(PriorConfig(path=str(tiny)))
    monkeypatch.setattr(speed, "Checkpoint", lambda config: prior)
    paired = speed.paired
    monkeypatch.setattr(speed, "paired", lambda ours, bare, rounds: paired(ours, bare, rounds, warmup=0))
    benchmark.main(["speed", "--prior.path", str(tiny), "--particles", "1", "--out", str(tmp_path / "out")])
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
        "asd": "1B + 2B",
        "cfd": "2B",
        "dsd": "2B + 1B + 2B",
        "flowedit": "4B",
        "lods": "2B + 1B",
        "rfds": "1B + 2B",
        "ddim": "2B",
        "sdedit": "2B",
    }
    kinds = [["sds", kind] for kind in sds2d.REPRESENTATIONS if kind != "latent"]
    assert [[cell.strip() for cell in row[:2]] for row in rows[-len(kinds) :]] == kinds
    assert all(float(cell) > 0 for row in rows[2:] for cell in row[3:])


def test_a_search_fixes_settings_of_its_method_and_representation(tmp_path, monkeypatch):
    """One value each, beside what is swept."""
    monkeypatch.setattr(
        search, "make_pictures", lambda rows, workers: (_ for _ in ()).throw(InterruptedError(len(rows)))
    )
    command = "--algo.name vsd --rep.kind field --rep.encoding hashgrid --algo.vsd.lora-rank 2 --rep.lr 1 2 --prompts 4"
    with pytest.raises(InterruptedError, match="3"):  # one of DDIM and two of the grid
        search.main([*command.split(), "--out", str(tmp_path)])
