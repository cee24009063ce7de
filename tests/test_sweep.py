"""A sweep is its runs, no more and no less: the same bytes as sds2d.py, each in its place in the figure, whatever
dies."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
import tyro
import yaml
from conftest import ROOT, GaussianPrior
from PIL import Image

import sds2d
import sweep
from config import Config, flatten, parse_resume
from recording import processes
from recording.figure import figure, measure, moments, wrap
from recording.folder import lock_folder
from recording.page import read_run


@pytest.fixture
def gaussian(monkeypatch):
    """Runs take their prior in closed form, which costs nothing; → the PriorConfigs it was loaded for."""
    loaded = []

    class Any(dict):
        def __missing__(self, prompt):
            return 0.1 * (len(prompt) % 7), 0.5

    def load(config):
        loaded.append((config.path, config.dtype))
        prior = GaussianPrior({})
        prior.data = type("Data", (), {"__getitem__": lambda self, prompt: [(1.0, *Any()[prompt])]})()
        return prior

    monkeypatch.setattr(sweep, "Checkpoint", load)
    sweep._loaded.clear()
    yield loaded
    sweep._loaded.clear()


@pytest.fixture
def swept(monkeypatch, capsys, tiny):
    """Runs `sweep.py …` in this process → (exit code, lines of stdout, lines of stderr without bars)."""

    def call(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["sweep.py", *map(str, arguments)])
        code = 0
        try:
            sweep.main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        bars = re.compile(r"^\w+: +\d+%")
        errors = [line for line in said.err.replace("\r", "\n").splitlines() if line and not bars.match(line)]
        return code, said.out.splitlines(), errors

    return call


def start(*arguments, **options):
    """Starts `python sweep.py …` as a user would."""
    return subprocess.Popen(
        [sys.executable, ROOT / "sweep.py", *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def table(folder):
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def places(sheet, part):
    """(y, x) of every place where `part` (h, w, 3) stands in `sheet` (H, W, 3), pixel for pixel."""
    found = np.argwhere(
        (sheet[: sheet.shape[0] - len(part) + 1, : sheet.shape[1] - part.shape[1] + 1] == part[0, 0]).all(-1)
    )
    return [(y, x) for y, x in found.tolist() if (sheet[y : y + part.shape[0], x : x + part.shape[1]] == part).all()]


def enlarged(file, factor):
    return np.asarray(Image.open(file)).repeat(factor, 0).repeat(factor, 1)


def labels(*arguments):
    """{text: [(top, left, bottom, right)]} of the figure of a finished sweep, in pixels of its PNG."""
    plan = sweep.plan(list(map(str, arguments)))
    axes = sweep.axes(plan.options.rows, plan.options.columns, plan.swept)
    names = dict(label.split("=") for label in plan.options.labels)
    results = [read_run(run.folder) for run in plan.runs]
    drawn = figure(plan.runs, results, axes, names, plan.options.show, plan.options.tile)
    drawn.draw_without_rendering()
    found, height = {}, drawn.bbox.height
    for text in drawn.axes[0].texts:
        box = text.get_window_extent()
        place = (height - box.y1, box.x0, height - box.y0, box.x1)
        found.setdefault(text.get_text().replace("\n", " "), []).append(place)
    return found


QUICK = (
    "--log.timesteps",
    "--steps",
    3,
    "--particles",
    1,
    "--rep.optimizer",
    "sgd",
    "--rep.lr",
    "0.3",
    "--log.tile",
    "16",
)

# -------------------------------------------------------------------------------------------------------- the same runs


def test_runs_are_those_of_sds2d(swept, command, tiny, tmp_path, monkeypatch):
    """VSD puts a LoRA on the prior, which the SDS after it shares: both as if alone. The prior is loaded once."""
    loads, load = [], sweep.Checkpoint
    monkeypatch.setattr(sweep, "Checkpoint", lambda config: loads.append(1) or load(config))
    sweep._loaded.clear()
    common = [
        "--prior.path",
        tiny,
        "--steps",
        2,
        "--particles",
        1,
        "--log.tile",
        64,
        "--log.timesteps",
        "--log.every",
        1,
    ]
    code, out, _ = swept(*common, "--algo.name", "vsd", "sds", "--out", tmp_path / "sweep")
    assert code == 0 and out == [f"{tmp_path}/sweep/figure.png", "2 runs: 2 finished"] and loads == [1]
    for index, name in enumerate(["vsd", "sds"]):
        done = command(*common, "--algo.name", name, "--out", tmp_path / name)
        assert done.returncode == 0, done.stderr
        mine, alone = tmp_path / "sweep" / f"{index}-{name}", tmp_path / name
        for file in ("final.png", "final_00.png", "images/step_000001.png"):
            assert (mine / file).read_bytes() == (alone / file).read_bytes(), (name, file)
        settings = [yaml.safe_load((home / "config.yaml").read_text()) for home in (mine, alone)]
        assert [{**part, "command": None} for part in settings] == [{**settings[0], "command": None}] * 2
    assert (tmp_path / "vsd" / "final.png").read_bytes() != (tmp_path / "sds" / "final.png").read_bytes()


def test_a_prior_is_loaded_once_and_one_is_kept(gaussian, swept, tiny, tmp_path):
    """Three settings of the prior, varying faster than the seed, are ordered so that each is loaded once."""
    code, out, _ = swept(
        "--prior.path",
        tiny,
        *QUICK,
        "--seed",
        0,
        1,
        "--prior.dtype",
        "float32",
        "bfloat16",
        "auto",
        "--out",
        tmp_path / "sweep",
    )
    assert code == 0 and out[-1] == "6 runs: 6 finished"
    assert sorted(dtype for _, dtype in gaussian) == ["auto", "bfloat16", "float32"] and len(sweep._loaded) == 1


def test_sizes_are_swept(swept, tiny, tmp_path):
    """Each run has a prior of its own size."""
    sweep._loaded.clear()
    given = ["--prior.path", tiny, "--steps", 1, "--particles", 1, "--log.timesteps", "--out", tmp_path / "sweep"]
    code, out, _ = swept(*given, "--rep.kind", "pixel", "--prior.size", 32, 48, "--prior.size", 64)
    assert code == 0 and out[-1] == "2 runs: 2 finished"
    sizes = [Image.open(tmp_path / "sweep" / row["run"] / "final_00.png").size for row in table(tmp_path / "sweep")]
    assert sizes == [(48, 32), (64, 64)]


# ------------------------------------------------------------------------------------------------------------ the flags


def read(arguments):
    return tyro.cli(Config, args=arguments)


SAME = [
    ["--prompt", "a", "b", "--prompt=c", "d"],
    ["--prompt=-x", "y", "--prompt", "z"],
    ["--rep.init_color", "0.1", "0.2", "0.3", "--rep.init-color=1", "0", "0"],
    ["--schedule.shared-t", "--schedule.no-shared-t"],
    ["--schedule.no_shared_t", "--schedule.shared-t"],
    ["--algo.name=sdi", "--algo.sdi.inversion-guidance-scale", "-3", "-7.5"],
    ["--algo.sdi.inversion_guidance_scale=-3", "-7.5", "--algo.name", "sdi"],
    ["--seed", "0", "1", "--seed=2"],
    ["--negative-prompt", "", "--negative-prompt", "b c"],
    ["--steps", "10", "None"],
]


@pytest.mark.parametrize("arguments", SAME, ids=" ".join)
def test_values_mean_what_they_mean_to_sds2d(arguments, tiny, tmp_path):
    """tyro reads each form by itself; the runs of the sweep are those readings."""
    found = [read(run.arguments) for run in sweep.make_runs(sweep.read_grid(arguments))[1]]
    alone = {
        "--prompt": [["--prompt", "a", "b"], ["--prompt", "c", "d"]],
        "--prompt=-x": [["--prompt=-x", "y"], ["--prompt", "z"]],
        "--rep.init_color": [["--rep.init-color", "0.1", "0.2", "0.3"], ["--rep.init-color", "1", "0", "0"]],
        "--schedule.shared-t": [["--schedule.shared-t"], []],
        "--schedule.no_shared_t": [[], ["--schedule.shared-t"]],
        "--algo.name=sdi": [["--algo.name", "sdi", "--algo.sdi.inversion-guidance-scale", s] for s in ("-3", "-7.5")],
        "--seed": [["--seed", s] for s in "012"],
        "--negative-prompt": [[], ["--negative-prompt", "b c"]],
        "--steps": [["--steps", "10"], []],
    }
    alone["--algo.sdi.inversion_guidance_scale=-3"] = alone["--algo.name=sdi"]
    assert found == [read(single) for single in alone[arguments[0]]]


WRONG = [
    ("", ["nothing is swept"]),
    ("--algo.name sds", ["nothing is swept"]),
    ("--algo.name sds foo", ["foo", "sds", "vsd"]),
    ("--algo.name sds csd --algo.guidance-scale 7.5 30", ["not csd", "algo.name csd", "algo.guidance-scale 7.5"]),
    ("--stepz 3 --seed 0 1", ["--stepz"]),
    ("--steps 10 many", ["many"]),
    ("--seed 0 1 --steps 0", ["--steps 0"]),
    ("--seed 0 1 0", ["--seed 0", "twice"]),
    ("--seed 0 1 --seed=0", ["--seed 0", "twice"]),
    ("--prompt a --prompt a", ["--prompt a", "twice"]),
    ("apple --seed 0 1", ["apple", "flag"]),
    ("--seed 0 1 --rows rep.lr", ["rep.lr", "seed"]),
    ("--seed 0 1 --columns seed", ["--rows", "--columns"]),
    ("--seed 0 1 --steps 2 3 --rows seed --columns seed", ["two different"]),
    ("--seed 0 1 --show 0", ["--show 0"]),
    ("--seed 0 1 --tile some", ["--tile", "some"]),
    ("--seed 0 1 --labels seed", ["--labels"]),
    ("--seed 0 1 --only 0", ["--only"]),
    ("--seed 0 1 --out {p}/file", ["file", "exists"]),
    ("--seed 0 1 --out {p}/full", ["full", "no sweep"]),
    ("--seed 0 1 --out /proc/sweep", ["/proc/sweep"]),
    ("--seed 0 1 --prior.device cuda:77", ["cuda:77"]),
    ("--seed 0 1 --prior.device cuda:1 --jobs 2", ["cuda:1", "CUDA_VISIBLE_DEVICES"]),
    ("--rep.init image --rep.init-images {p}/missing.png --seed 0 1", ["missing.png"]),
]


@pytest.mark.parametrize("given, words", WRONG, ids=[given for given, _ in WRONG])
def test_wrong_input(given, words, swept, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sweep._loaded.clear()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("")
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = swept(*given.format(p=tmp_path).split(), "--prior.path", tiny)
    assert code == 2 and out == []
    assert len(errors) == 1 and errors[0].startswith("sweep.py: ") or "full helptext" in "".join(errors), errors
    for word in words:
        assert word in "".join(errors)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is written"


def test_another_sweep_is_not_overwritten(gaussian, swept, tiny, tmp_path):
    common = ["--prior.path", tiny, *QUICK, "--out", tmp_path / "sweep"]
    assert swept(*common, "--seed", 0, 1)[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()}
    for other in (["--seed", 0, 2], ["--seed", 0, 1, 2], ["--seed", 0, 1, "--negative-prompt", "b"]):
        code, _, errors = swept(*common, *other)
        assert code == 2 and len(errors) == 1 and "another sweep" in errors[0] and "--seed 0 1" in errors[0]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.is_file()} == before


# ----------------------------------------------------------------------------------------------------------- the figure


def test_figure_has_every_run_in_its_place_and_every_label(gaussian, swept, tiny, tmp_path):
    """The pictures are found pixel for pixel, enlarged and not blurred, and the words beside them."""
    out = tmp_path / "sweep"
    names, scales = ["sds", "ism"], ["1", "2", "4.5"]
    given = ["--prior.path", tiny, *QUICK, "--algo.name", *names, "--algo.guidance-scale", *scales]
    given += ["--out", out, "--tile", 64]
    code, said, _ = swept(*given)
    assert code == 0 and said[-1] == "6 runs: 6 finished"
    sheet = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    rows = table(out)
    assert [(row["algo.name"], row["algo.guidance-scale"]) for row in rows] == [(n, s) for n in names for s in scales]
    at = []
    for row in rows:
        settings = yaml.safe_load((out / row["run"] / "config.yaml").read_text())
        assert settings["algo"]["name"] == row["algo.name"]
        assert settings["algo"]["guidance_scale"] == float(row["algo.guidance-scale"])
        last = json.loads((out / row["run"] / "metrics.jsonl").read_text().splitlines()[-1])
        assert row["status"] == "finished" and float(row["seconds"]) > 0
        assert (
            float(row["grad_norm"]) == pytest.approx(last["grad_norm"][0]) and row["clip_score"] == row["error"] == ""
        )
        at += places(sheet, enlarged(out / row["run"] / "final_00.png", 32))
    ys, xs = sorted({y for y, _ in at}), sorted({x for _, x in at})
    assert at == [(y, x) for y in ys for x in xs] and len(ys) == 2 and len(xs) == 3
    words = labels(*given)
    for text, y in zip(names, ys, strict=True):
        ((top, left, bottom, right),) = words[text]
        assert y < top < bottom < y + 64 and 0 < left < right < xs[0]
    for text, x in zip(scales, xs, strict=True):
        ((top, left, bottom, right),) = words[text]
        assert 0 < top < bottom < ys[0] and x < left < right < x + 64 + 36
    assert len(words["algo.guidance-scale"]) == len(words["algo.name"]) == 1

    # The other way round, without a run: nothing is loaded again.
    loads = len(gaussian)
    assert swept(*given, "--rows", "algo.guidance-scale")[0] == 0
    turned = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    at = [place for row in rows for place in places(turned, enlarged(out / row["run"] / "final_00.png", 32))]
    ys, xs = sorted({y for y, _ in at}), sorted({x for _, x in at})
    assert at == [(y, x) for x in xs for y in ys] and len(ys) == 3 and len(gaussian) == loads


def test_a_figure_is_drawn_again_from_its_folder(gaussian, swept, tiny, tmp_path):
    """Without the flags that made it, and with other names."""
    out = tmp_path / "sweep"
    swept("--prior.path", tiny, *QUICK, "--algo.name", "sds", "ism", "--algo.guidance-scale", 1, 2, "--out", out)
    before, loads = labels("--out", out), len(gaussian)
    assert before["algo.name"][0][1] < before["algo.guidance-scale"][0][1], "rows stand at the left"
    new = ["--rows", "algo.guidance-scale", "--labels", "algo.guidance-scale=CFG $s$", "sds=DreamFusion", "1=none"]
    assert swept("--out", out, *new)[0] == 0 and len(gaussian) == loads
    after = labels("--out", out, *new)
    assert after["CFG $s$"][0][1] < after["algo.name"][0][1] and "sds" not in after
    assert len(after["DreamFusion"]) == len(after["none"]) == len(after["ism"]) == 1
    code, _, errors = swept("--out", out, "--labels", "sds")
    assert code == 2 and "--labels" in errors[-1]


def test_a_list_of_whole_commands(swept, tiny, tmp_path):
    """Each is run as it is, by whatever reads lines; afterwards the folder alone gives the figure of a sweep made in
    one piece. What is finished is not listed again, and what was stopped is resumed."""
    given = ["--prior.path", tiny, *QUICK, "--log.every", 1, "--seed", 0, 1, 2]
    out = tmp_path / "a list"
    code, said, errors = swept(*given, "--out", out, "--list")
    assert code == 0 and len(said) == 3 and errors == ["3 runs: 3 not run"]
    words = [shlex.split(line) for line in said]
    assert [line[-2:] for line in words] == [["--out", f"{out}/{seed}-{seed}"] for seed in (0, 1, 2)]
    for line in words[:2]:
        assert line[:2] == ["python", "sds2d.py"]
        config = sds2d.parse(line[2:])
        sds2d.run(config, sweep.shared_prior(config.prior))
    (out / "1-1" / "final.png").unlink()
    code, said, errors = swept("--out", out, "--list")
    assert [shlex.split(line)[2:4] for line in said] == [["--resume", f"{out}/1-1"], words[2][2:4]]
    config = parse_resume(shlex.split(said[0])[2:])
    sds2d.run(config, sweep.shared_prior(config.prior), resume=True)
    code, said, _ = swept("--out", out)
    assert code == 0 and said == [f"{out}/figure.png", "3 runs: 2 finished, 1 not run"], "it draws, and runs nothing"
    assert [row["status"] for row in table(out)] == ["finished", "finished", "not run"]
    assert swept(*given, "--out", out)[1][-1] == "3 runs: 3 finished"
    assert swept(*given, "--out", tmp_path / "whole")[0] == 0
    pictures = [np.asarray(Image.open(folder / "figure.png")) for folder in (out, tmp_path / "whole")]
    assert (pictures[0] == pictures[1]).all()


def test_a_run_of_another_process_is_left_alone(swept, tiny, tmp_path):
    out = tmp_path / "sweep"
    given = ["--prior.path", tiny, *QUICK, "--seed", 0, 1, "--out", out]
    assert swept(*given)[0] == 0
    (out / "1-1" / "final.png").unlink()
    with lock_folder(out / "1-1"):
        assert swept(*given)[1][-1] == "2 runs: 1 finished, 1 unfinished"
    assert not (out / "1-1" / "error.txt").exists()
    assert swept(*given)[1][-1] == "2 runs: 2 finished"


def test_a_run_that_was_stopped_is_not_finished(swept, tiny, tmp_path):
    """Ctrl-C leaves a final.png of the step that it reached."""
    given = ["--prior.path", tiny, *QUICK, "--seed", 0, 1]
    assert swept(*given, "--out", tmp_path / "whole")[0] == 0
    config = sds2d.parse([*map(str, given[:-2]), "1", "--out", str(tmp_path / "sweep" / "1-1")])

    def stop(step, images):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        sds2d.run(config, sweep.shared_prior(config.prior), stop)
    assert (tmp_path / "sweep" / "1-1" / "final.png").is_file()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"command": [*map(str, given)]}))
    assert swept("--out", tmp_path / "sweep")[1][-1] == "2 runs: 1 not run, 1 unfinished"
    assert swept(*given, "--out", tmp_path / "sweep")[1][-1] == "2 runs: 2 finished"
    files = [tmp_path / folder / "1-1" / "final.png" for folder in ("whole", "sweep")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_processes_of_a_sweep(swept, tiny, tmp_path):
    """--jobs 2: the bytes of one after another."""
    given = ["--prior.path", tiny, *QUICK, "--seed", 0, 1]
    process = start(*given, "--out", tmp_path / "jobs", "--jobs", 2)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert swept(*given, "--out", tmp_path / "one")[0] == 0
    for name in ("0-0", "1-1"):
        files = [tmp_path / folder / name / "final.png" for folder in ("one", "jobs")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert len(table(tmp_path / "jobs")) == 2


def test_jobs_of_slurm(tiny, tmp_path):
    """Through submitit, whose local executor stands in for a cluster; a line where there is neither."""
    pytest.importorskip("submitit")
    given = ["--prior.path", tiny, *QUICK, "--seed", 0, 1, "--out", tmp_path / "sweep"]
    _, errors = start(*given, "--slurm", "partition=gpu", cwd=tmp_path).communicate(timeout=120)
    assert errors.splitlines()[-1].startswith("sweep.py: --slurm partition=gpu: ") and not (tmp_path / "sweep").exists()
    process = start(*given, "--slurm", "cluster=local", "partition=gpu", "time=60", "gpus=1", cwd=tmp_path)
    said, errors = process.communicate(timeout=240)
    assert process.returncode == 0 and said.splitlines()[-1] == "2 runs: 2 finished", errors
    assert list((tmp_path / "sweep" / "slurm").glob("*_0_result.pkl"))


def test_slurm_without_submitit(swept, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep.importlib.util, "find_spec", lambda name: None)
    code, _, errors = swept("--prior.path", tiny, "--seed", 0, 1, "--slurm", "time=5", "--out", tmp_path / "sweep")
    assert code == 2 and "pip install submitit" in errors[-1] and not (tmp_path / "sweep").exists()


def test_one_flag_stands_against_the_steps(gaussian, swept, tiny, tmp_path):
    """What the column of step 2 shows is what a run of 2 steps ends with."""
    out, short = tmp_path / "sweep", tmp_path / "short"
    given = [
        "--prior.path",
        str(tiny),
        *map(str, QUICK[3:]),
        "--log.timesteps",
        "--log.every",
        "1",
        "--algo.guidance-scale",
        "1",
    ]
    assert swept(*given, "--steps", 5, "--seed", 3, 4, "--out", out, "--tile", 64)[0] == 0
    sheet = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    config = sds2d.parse([*given, "--steps", "2", "--seed", "4", "--out", str(short)])
    sds2d.run(config, sweep.shared_prior(config.prior))
    found = places(sheet, enlarged(short / "final_00.png", 32))
    assert len(found) == 1, found
    ((y, x),) = found
    ((bottom, right),) = places(sheet, enlarged(out / "1-4" / "final_00.png", 32))
    assert bottom == y and right > x
    words = labels(*given, "--steps", 5, "--seed", 3, 4, "--out", out, "--tile", 64)
    heads = [words[text][0] for text in "0235"]
    assert all(bottom < y - 64 for _, _, bottom, _ in heads) and len(words["steps"]) == 1
    lefts = [left for _, left, _, _ in heads]
    assert lefts == sorted(lefts) and x < lefts[1] < x + 64 and right < lefts[3] < right + 64


@pytest.mark.slow
def test_three_flags_make_a_table_each(gaussian, swept, tiny, tmp_path):
    out = tmp_path / "sweep"
    given = ["--seed", 0, 1, "--algo.guidance-scale", 1, 4, "--prompt", "ab", "--prompt", "abcd"]
    assert swept("--prior.path", tiny, *QUICK, *given, "--out", out, "--tile", 64)[0] == 0
    sheet = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    at = {}
    for row in table(out):
        ((y, x),) = places(sheet, enlarged(out / row["run"] / "final_00.png", 32))
        at[row["seed"], row["algo.guidance-scale"], row["prompt"]] = y, x
    assert len({x for _, x in at.values()}) == 2 and len({y for y, _ in at.values()}) == 4
    assert max(y for key, (y, _) in at.items() if key[2] == "ab") < min(
        y for key, (y, _) in at.items() if key[2] == "abcd"
    )


def test_long_labels_are_wrapped():
    lines = wrap("a long prompt " * 20, 120, 3)
    assert len(lines) == 3 and lines[-1].endswith("…") and all(measure(line) <= 120 for line in lines)
    assert wrap("a b", 120, 3) == ["a b"] and "".join(wrap("x" * 50, 120, 9)) == "x" * 50 and wrap("", 120, 3) == [""]


# ------------------------------------------------------------------------------------------------- what goes wrong


def test_a_run_that_fails_is_shown_and_tried_again(gaussian, swept, tiny, tmp_path, monkeypatch):
    """One learning rate is past what float32 holds, another run meets a bug; the third is finished."""
    out = tmp_path / "sweep"
    given = ["--prior.path", tiny, *QUICK[:-4], "--log.every", 1, "--rep.lr", "0.3", "9e29", "0.2", "--out", out]
    run, pages = sds2d.run, []

    def stumbles(config, *rest, **named):
        pages.append((out / "index.html").read_text())
        if config.rep.lr == 0.2:
            raise RuntimeError("a bug\nof two lines")
        return run(config, *rest, **named)

    monkeypatch.setattr(sds2d, "run", stumbles)
    code, said, errors = swept(*given)
    assert code == 1 and said == [f"{out}/figure.png", "3 runs: 1 finished, 2 failed"]
    failure = "before step 1, particle 0: the decoded picture is not finite"
    assert any(f"9e29 failed: {failure}" in line for line in errors), errors
    rows = table(out)
    assert [row["status"] for row in rows] == ["finished", "failed", "failed"]
    assert rows[1]["error"].startswith(failure) and rows[2]["error"] == "RuntimeError: a bug"
    assert "in stumbles" in (out / rows[2]["run"] / "error.txt").read_text()
    sheet = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    # The one fails in its first step, with one moment of four to show, and the other has none.
    assert sum(len(found) for text, found in labels(*given).items() if text.startswith("failed")) == 3 + 4
    page = (out / "index.html").read_text()
    assert failure in page and "RuntimeError: a bug" in page
    assert all("location.reload" in page for page in pages) and "location.reload" not in page, "while it goes on"
    assert re.search(r"\d s left", pages[1]) and "1 finished, 2 not run" in pages[1]
    assert (sheet == (233, 233, 233)).all(-1).mean() > 0.2

    kept = (out / rows[0]["run"] / "final.png").stat().st_mtime_ns
    monkeypatch.setattr(sds2d, "run", run)
    code, said, _ = swept(*given)
    assert code == 1 and said[-1] == "3 runs: 2 finished, 1 failed"
    assert [row["status"] for row in table(out)] == ["finished", "failed", "finished"]
    assert (out / rows[0]["run"] / "final.png").stat().st_mtime_ns == kept and not (
        out / rows[2]["run"] / "error.txt"
    ).exists()


def test_a_run_of_a_list_that_fails_is_shown(swept, tiny, tmp_path, monkeypatch):
    """sds2d.py itself leaves the reason; a resumed run forgets it."""
    distill = sds2d.distill

    def fails(parts, step):
        if step == 1:
            raise FloatingPointError("step 1, particle 0: a number is not finite")
        return distill(parts, step)

    monkeypatch.setattr(sds2d, "distill", fails)
    out = tmp_path / "sweep"
    given = ["--prior.path", tiny, *QUICK[:-4], "--log.every", 1, "--rep.lr", "0.2", "0.3", "--out", out]
    config = sds2d.parse(shlex.split(swept(*given, "--list")[1][0])[2:])
    prior, seen = sweep.shared_prior(config.prior), []
    with pytest.raises(FloatingPointError):
        sds2d.run(config, prior)
    assert swept("--out", out)[1][-1] == "2 runs: 1 failed, 1 not run"
    assert table(out)[0]["error"] == "step 1, particle 0: a number is not finite"
    assert "Traceback" in (Path(config.out) / "error.txt").read_text()
    assert len(swept(*given, "--list")[1]) == 1, "a failed run is not listed"
    with pytest.raises(FloatingPointError):
        sds2d.run(parse_resume(["--resume", config.out]), prior, lambda *_: seen.append(read_run(out / "0-0.2")), True)
    assert seen[0]["status"] == "unfinished"


class Reader(HTMLParser):
    """What a browser makes of a page: its tags, its text, and what it refers to."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_page_shows_hostile_prompts_as_text(gaussian, swept, tiny, tmp_path):
    hostile = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)> & ü", "../../a\nb"]
    out = tmp_path / "<b>&amp; sweep"
    given = [word for prompt in hostile for word in ("--prompt", prompt)]
    code, said, _ = swept("--prior.path", tiny, *QUICK, *given, "--out", out)
    assert code == 0 and said[-1] == "3 runs: 3 finished"
    page = Reader((out / "index.html").read_text())
    assert "b" not in page.tags and page.tags.count("script") == 2 and page.tags.count("img") == 1
    for prompt in hostile:
        assert prompt in page.text
    assert len(page.links) == 7 and all((out / unquote(link)).is_file() for link in page.links)
    assert [row["prompt"] for row in table(out)] == hostile
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [row["run"] for row in table(out)]


def wait_for(condition, process, seconds=120):
    end = time.time() + seconds
    while not (found := condition()):
        assert process.poll() is None, process.communicate()
        assert time.time() < end, "too long"
        time.sleep(0.005)
    return found


def test_goes_on_after_a_kill(swept, tiny, tmp_path):
    """SIGKILL in the middle of the second run; the first is kept as it is, the second goes on in its folder."""
    out = tmp_path / "sweep"
    given = ["--prior.path", tiny, "--steps", 2, "--particles", 1, "--seed", 0, 1, 2, "--out", out]
    process = start(*given)
    wait_for(lambda: list(out.glob("1-1/images/*.png")), process)
    process.kill()
    process.communicate()
    first, half = out / "0-0", out / "1-1"
    assert "not run" in (out / "results.csv").read_text()
    (half / "old").write_text("of the run that was killed")
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    code, said, _ = swept(*given)
    assert code == 0 and said[-1] == "3 runs: 3 finished"
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    assert (half / "old").exists()
    assert [row["status"] for row in table(out)] == ["finished"] * 3


def test_ctrl_c_says_how_to_go_on(gaussian, monkeypatch, capsys, tiny, tmp_path):
    def interrupted(*rest, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(sds2d, "run", interrupted)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--prior.path", str(tiny), "--seed", "0", "1"])
    with pytest.raises(SystemExit) as end:
        sweep.main()
    (folder,) = (tmp_path / "outputs").iterdir()
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        end.value.code == 130
        and "2 runs: 2 not run" in last
        and f"--seed 0 1 --out outputs/{folder.name} continues" in last
    )


def worker_of(folder):
    """The process that has locked the run, or None."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(file) == str(folder / ".lock") for file in (process / "fd").iterdir()):
                return int(process.name)
        except OSError:  # It ended, or is not ours.
            pass
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the process of a run through /proc")
def test_a_killed_process_of_jobs(swept, tiny, tmp_path):
    """SIGKILL for one of two: one line, and the same command continues the run in its folder, to the same bytes."""
    given = ["--prior.path", tiny, "--steps", 6, "--particles", 1, "--log.every", 2, "--seed", 0, 1]
    out = tmp_path / "jobs"
    process = start(*given, "--out", out, "--jobs", 2)
    half = out / "1-1"
    os.kill(wait_for(lambda: list(half.glob("images/*.png")) and worker_of(half), process, 200), signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and errors.splitlines()[-1].startswith("sweep.py: a process died"), errors
    (half / "old").write_text("of the process that was killed")
    assert swept(*given, "--out", out)[1][-1] == "2 runs: 2 finished"
    assert (half / "old").exists()
    assert swept(*given, "--out", tmp_path / "alone")[0] == 0
    for row in table(out):
        mine, alone = (folder / row["run"] / "final.png" for folder in (out, tmp_path / "alone"))
        assert mine.read_bytes() == alone.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="finds the process of a run through /proc")
def test_a_preempted_job_of_slurm(swept, tiny, tmp_path):
    """It is queued again by the signal that Slurm sends, and continues its run in its folder, to the same bytes."""
    pytest.importorskip("submitit")
    given = ["--prior.path", tiny, "--steps", 60, "--particles", 1, "--log.every", 2, "--log.timesteps", "--seed", 0, 1]
    out = tmp_path / "sweep"
    process = start(*given, "--out", out, "--slurm", "cluster=local", cwd=tmp_path)
    half = out / "1-1"
    pid = wait_for(lambda: (half / "checkpoint.pt").is_file() and worker_of(half), process, 200)
    (half / "old").write_text("of the job that was preempted")
    os.kill(pid, signal.SIGUSR2)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and said.splitlines()[-1] == "2 runs: 2 finished", errors
    assert (half / "old").exists() and "preempted" in "".join(file.read_text() for file in out.glob("slurm/*.err"))
    assert swept(*given, "--out", tmp_path / "alone")[0] == 0
    assert (half / "final.png").read_bytes() == (tmp_path / "alone" / "1-1" / "final.png").read_bytes()


@pytest.mark.parametrize(
    "visible, count, wanted", [(None, 2, "0 1"), ("2,3", 2, "2 3"), ("", 0, ""), ("GPU-8a", 1, "GPU-8a")]
)
def test_jobs_take_only_the_visible_gpus(visible, count, wanted, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert processes.gpus() == wanted.split()


def test_a_home_folder_is_expanded(gaussian, swept, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert swept("--prior.path", tiny, *QUICK, "--seed", 0, 1, "--out=~/x")[0] == 0
    assert (tmp_path / "x" / "figure.png").is_file()


@pytest.mark.parametrize("steps", [7, 60, 100, 150, 1000])
def test_a_figure_shows_runs_of_different_lengths_at_like_moments(steps):
    settings = flatten(sds2d.parse(["--steps", str(steps)]))
    for part, step in enumerate(moments(settings)):
        assert step < steps and abs(step - steps * part / 3) <= settings["log.every"] / 2, "the nearest recording"
        assert steps == 7 or abs(step / steps - part / 3) <= 1 / 8
