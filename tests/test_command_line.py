"""Bad input gets one line and exit code 2, before anything is computed or written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from PIL import Image

import sds2d
from config import CommandLine, flag, flatten
from errors import InputError
from priors.families import FAMILIES
from priors.files import fetch
from schedules.timestep import TIMESTEPS
from schedules.weight import WEIGHTS


@pytest.fixture(scope="module")
def run_folder(tiny, tmp_path_factory):
    """A finished run of three steps."""
    out = tmp_path_factory.mktemp("finished") / "run"
    sds2d.run(sds2d.parse(["--prior.path", str(tiny), "--steps", "3", "--particles", "1", "--out", str(out)]))
    return out


@pytest.fixture
def place(tmp_path, tiny, run_folder):
    """A folder with an image, a broken image, a run, and other things to trip over."""
    shutil.copytree(run_folder, tmp_path / "run")
    for name in ("pickles", "code"):
        shutil.copytree(tiny, tmp_path / name)
    (tmp_path / "pickles" / "unet" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "pickles" / "unet" / "weights.bin"
    )
    (tmp_path / "code" / "model_index.json").write_text('{"_class_name": "MyPipeline"}')
    Image.new("RGB", (64, 64)).save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.effect_noise((300, 300), 50).save(tmp_path / "chunk.png")
    data = bytearray((tmp_path / "chunk.png").read_bytes())
    second = data.index(b"IDAT", data.index(b"IDAT") + 4)
    data[second : second + 4] = b"\x00\x01\x02\x03"
    (tmp_path / "chunk.png").write_bytes(data)
    for name, text in (("mangled", "{"), ("listed", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(text)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("a file")
    return tmp_path


def table():
    """wrong_input.txt as (flags, exit code, words); {p} is the folder above."""
    text = (Path(__file__).parent / "wrong_input.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for flags, answer in zip(lines[::2], lines[1::2], strict=True):
        code, *words = answer.split()
        yield flags, int(code), words


@pytest.mark.parametrize("flags, code, words", [pytest.param(*row, id=row[0]) for row in table()])
def test_wrong_input(flags, code, words, place, tiny, capsys, monkeypatch):
    """In process, for speed; test_as_a_user below runs the real command."""
    given = shlex.split(flags.replace("{p}", str(place)))
    if not {"--prior.path", "--resume", "--config"} & set(given):
        given += ["--prior.path", str(tiny)]
    if not {"--out", "--resume"} & set(given):
        given += ["--out", str(place / "out")]
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    monkeypatch.setattr(sys, "argv", ["sds2d.py", *given])
    with pytest.raises(SystemExit) as end:
        sds2d.main()
    shown = capsys.readouterr().err.replace("\r", "\n")
    ours = [line for line in shown.splitlines() if line.startswith("sds2d.py: ")]
    assert end.value.code == code and "Traceback" not in shown
    assert len(ours) == 1 or "For full helptext" in shown, "one line, unless it is tyro's"
    for word in words:
        assert word.replace("{p}", str(place)) in "".join(shown.split()), (word, shown)
    if code == 2:
        assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before, "nothing is written"


def test_debug_shows_where_it_arose(command, tmp_path):
    done = command("--debug", "--steps", 0, cwd=tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" in done.stderr and last.startswith("sds2d.py: --steps 0")


def test_as_a_user(command, tmp_path):
    done = command("--rep.num-points", 5, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert "gaussian2d" in done.stderr and not list(tmp_path.iterdir())


def test_no_hub(command, tmp_path):
    """A hub id that can't be fetched: one line that names the embedded prior."""
    done = command("--prior.path", "owner/name", cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2 and done.stderr.count("\n") == 2, done.stderr  # and what it loads
    assert "owner/name" in done.stderr and "ships with sds2d" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_hub_behind_a_dead_proxy(monkeypatch):
    """The library tries for half a minute before it says so; here it gives up at once."""
    import huggingface_hub

    def refused(*arguments, **options):
        raise ConnectionError("Cannot connect to proxy.\nConnection refused")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    with pytest.raises(InputError, match="owner/name.*ships with sds2d.*Cannot connect to proxy"):
        fetch("owner/name")


def test_help():
    done = subprocess.run([sys.executable, ROOT / "sds2d.py", "--help"], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "--help-all" in done.stdout
    assert len(lines) < 50 and max(map(len, lines)) <= 120, "one screen"
    assert done.stderr.startswith("loading"), "the screen is not silent while PyTorch is imported"
    every = {flag(name) for name in flatten(CommandLine())}
    listed = set(re.findall(r"--[a-z][a-z.-]*[a-z]", done.stdout)) - {"--help", "--help-all", "--list"}
    assert (
        {"--prompt", "--algo.name", "--rep.kind", "--steps", "--prior.path", "--config", "--resume"} <= listed <= every
    )
    for names in (sds2d.ALGORITHMS, sds2d.REPRESENTATIONS, TIMESTEPS, WEIGHTS):
        assert set(names) <= set(done.stdout.split())
    assert "the method:" in done.stdout and "(CFG)" in done.stdout, "words for which people look"


def test_whole_help():
    """Of all flags, with the defaults that hold beside the flags that are given."""
    words = [sys.executable, ROOT / "sds2d.py", "--algo.name", "vsd", "--rep.optimizer", "adam", "--help-all"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0
    missing = [name for name in flatten(CommandLine()) if flag(name) not in done.stdout]
    assert missing == ["command", "config_file", "filled"]
    steps, lr = (re.search(rf"{name} .*?\(default: (.*?)\)", done.stdout, re.S)[1] for name in ("--steps", "--rep.lr"))
    assert (steps, lr) == ("100", "0.05"), "searched for VSD; SGD's rate would be 0.3"


def test_version():
    done = subprocess.run([sys.executable, ROOT / "sds2d.py", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and torch.__version__ in done.stdout


@pytest.mark.parametrize("flags", [["--prompt", "a", "--prompt", "b"], ["--log.timesteps=5", "--log.timesteps", "9"]])
def test_a_list_that_is_given_twice(flags):
    with pytest.raises(InputError, match=f"{flags[-2]} is given twice"):
        sds2d.parse(flags)


def test_prior_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sds2d.parse([]).prior.path == "priors/emoji64"


def test_prompts_of_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red apple\n\n  ein Apfel ☃ \n", encoding="utf-8")
    config = sds2d.parse(["--prompts-file", str(tmp_path / "prompts.txt"), "--algo.name", "vsd"])
    assert config.prompt == ("a red apple", "ein Apfel ☃")


def test_list(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sds2d.py", "--list"])
    sds2d.main()
    words = set(capsys.readouterr().out.split())
    for names in (sds2d.ALGORITHMS, sds2d.REPRESENTATIONS, TIMESTEPS, WEIGHTS, FAMILIES):
        assert set(names) <= words
