"""Bad input gets one line and exit code 2, before anything is computed or written."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

import sds2d
from prior import model_index


@pytest.fixture
def place(tmp_path, tiny):
    """A folder with a good checkpoint, an image, a broken image, and other things to trip over."""
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


# flags, words that the one line must hold; {p} is the folder above
WRONG = [
    ("--algo.name foo", ["foo", "sds"]),
    ("--rep.kind voxels", ["voxels", "latent", "pixel", "gaussian2d"]),
    ("--rep.num-points 10", ["--rep.num-points", "gaussian2d, not latent"]),
    ("--rep.kind gaussian2d --rep.num-points 0", ["--rep.num-points 0", "1"]),
    ("--rep.kind gaussian2d --rep.init-images {p}/good.png --rep.fit-steps 0", ["--rep.fit-steps 0", "1"]),
    ("--rep.kind gaussian2d --rep.init noise --rep.fit-steps 9", ["--rep.fit-steps", "not noise"]),
    ("--rep.kind gaussian2d --rep.background 0 0 2", ["--rep.background"]),
    ("--rep.kind gaussian2d --rep.scale-lr -1", ["--rep.scale-lr -1"]),
    ("--rep.kind gaussian2d --rep.layout circle", ["circle", "random", "grid"]),
    ("--rep.init nothing", ["nothing", "noise", "constant", "image"]),
    ("--rep.optimizer lion", ["lion", "adam", "adamw", "sgd"]),
    ("--schedule.timestep sometimes", ["sometimes", "uniform"]),
    ("--schedule.weight heavy", ["heavy", "dreamfusion", "constant"]),
    ("--prior.dtype int8", ["int8", "float16"]),
    ("--stepz 3", ["--stepz"]),
    ("--steps many", ["--steps", "many"]),
    ("--steps 0", ["--steps 0", "1"]),
    ("--steps -5", ["--steps -5"]),
    ("--particles 0", ["--particles 0"]),
    ("--particles -1", ["--particles -1"]),
    ("--particles 2.5", ["--particles", "2.5"]),
    ("--seed -1", ["--seed -1"]),
    ("--prompt", ["--prompt"]),
    ("--log.every 0", ["--log.every 0"]),
    ("--log.fps 0", ["--log.fps 0"]),
    ("--log.timesteps 100 -3", ["--log.timesteps -3", "from 0"]),
    ("--log.timesteps 100 1001", ["--log.timesteps 1001", "999"]),
    ("--log.timesteps nan", ["--log.timesteps nan"]),
    ("--log.timesteps-every 0", ["--log.timesteps-every 0"]),
    ("--eval.clip {p}/empty", ["--eval.clip", "empty"]),
    ("--eval.clip {p}/missing", ["--eval.clip", "missing"]),
    ("--log.tile 0", ["--log.tile 0"]),
    ("--rep.lr 0", ["--rep.lr 0"]),
    ("--rep.lr -1", ["--rep.lr -1"]),
    ("--rep.lr nan", ["--rep.lr nan"]),
    ("--rep.lr inf", ["--rep.lr inf"]),
    ("--algo.guidance-scale nan", ["--algo.guidance-scale nan"]),
    ("--rep.init-std -1", ["--rep.init-std -1"]),
    ("--rep.init-color 0 0 2", ["--rep.init-color"]),
    ("--rep.init-color 0 0", ["--rep.init-color"]),
    ("--schedule.t-min 0.9 --schedule.t-max 0.1", ["--schedule.t-min 0.9"]),
    ("--schedule.t-max 1000", ["--schedule.t-max 1000", "0 to 999"]),
    ("--schedule.t-max 1.5", ["--schedule.t-max 1.5", "timesteps 20 and 2"]),
    ("--schedule.t-min -0.1", ["--schedule.t-min -0.1"]),
    ("--schedule.t-min 900 --schedule.t-max 0.5", ["--schedule.t-min 900", "timesteps 900 and 500"]),
    ("--schedule.t-min nan", ["--schedule.t-min nan"]),
    ("--schedule.t-max inf", ["--schedule.t-max inf"]),
    ("--schedule.timestep constant", ["constant needs --schedule.t"]),
    ("--schedule.timestep constant --schedule.t 1000", ["--schedule.t 1000", "0 to 999"]),
    ("--schedule.timestep constant --schedule.t -1", ["--schedule.t -1"]),
    ("--schedule.timestep constant --schedule.t 500 --schedule.t-min 0.1", ["--schedule.t-min", "not constant"]),
    ("--schedule.t 500", ["--schedule.t ", "constant, not uniform"]),
    ("--schedule.timestep stepping", ["stepping needs --schedule.timestep-points"]),
    ("--schedule.timestep stepping --schedule.timestep-points", ["stepping needs --schedule.timestep-points"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 900 5", ["--schedule.timestep-points", "3 numbers"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 900 many 5", ["--schedule.timestep-points", "many"]),
    ("--schedule.timestep stepping --schedule.timestep-points 5 900", ["--schedule.timestep-points", "first step is 5"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 900 9 500 8 20", ["step 8 comes after step 9"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 900 9 500 9 20", ["step 9 comes after step 9"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 900 60 500 --steps 50", ["step 60", "--steps 50"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 1000", ["t = 1000 at step 0", "0 to 999"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 -5", ["--schedule.timestep-points -5"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 nan", ["--schedule.timestep-points nan"]),
    ("--schedule.timestep stepping --schedule.timestep-points nan 5", ["--schedule.timestep-points nan"]),
    ("--schedule.timestep piecewise_linear --schedule.timestep-points 0 900 9 0.5", ["timesteps 900 0.5", "fractions"]),
    ("--schedule.timestep piecewise_linear --schedule.timestep-points 0 900 0.5 500 9 20", ["steps 0 0.5 9", "fractions"]),
    ("--schedule.timestep stepping --schedule.timestep-points 0 9 --schedule.t-max 0.5", ["--schedule.t-max", "not stepping"]),
    ("--schedule.timestep-points 0 900", ["--schedule.timestep-points", "not uniform"]),
    ("--schedule.timestep polynomial", ["polynomial needs --schedule.timestep-coefficients"]),
    ("--schedule.timestep polynomial --schedule.timestep-coefficients 500 600", ["polynomial", "t = 1000 at step", "0 to 999"]),
    ("--schedule.timestep polynomial --schedule.timestep-coefficients 500 -600", ["polynomial", "t = -1 at step", "0 to 999"]),
    ("--schedule.timestep polynomial --schedule.timestep-coefficients inf", ["--schedule.timestep-coefficients inf"]),
    ("--schedule.weight piecewise_linear", ["piecewise_linear needs --schedule.weight-points"]),
    ("--schedule.weight piecewise_linear --schedule.weight-points 0 1 9", ["--schedule.weight-points", "3 numbers"]),
    ("--schedule.weight piecewise_linear --schedule.weight-points 0 -1", ["--schedule.weight-points -1"]),
    ("--schedule.weight stepping --schedule.weight-points 3 1", ["--schedule.weight-points", "first step is 3"]),
    ("--schedule.weight polynomial", ["polynomial needs --schedule.weight-coefficients"]),
    ("--schedule.weight polynomial --schedule.weight-coefficients 1 -2", ["weight polynomial", "w = -0.0", "0 or more"]),
    ("--schedule.weight polynomial --schedule.weight-coefficients nan", ["--schedule.weight-coefficients nan"]),
    ("--schedule.weight linear", ["linear needs --schedule.weight-ends"]),
    ("--schedule.weight linear --schedule.weight-ends 1", ["--schedule.weight-ends", "1 are given, 2 are needed"]),
    ("--schedule.weight linear --schedule.weight-ends 1 -1", ["--schedule.weight-ends -1"]),
    ("--schedule.weight linear --schedule.weight-ends 1 inf", ["--schedule.weight-ends inf"]),
    ("--schedule.weight-ends 1 0", ["--schedule.weight-ends", "linear, not dreamfusion"]),
    ("--schedule.weight snr --schedule.snr-gamma 0", ["--schedule.snr-gamma 0"]),
    ("--schedule.snr-gamma 4", ["--schedule.snr-gamma", "snr, not dreamfusion"]),
    ("--schedule.random-decay.curve linear", ["--schedule.random-decay", "random_decay, not uniform"]),
    ("--schedule.timestep random_decay --schedule.random-decay.curve round", ["round", "exponential"]),
    ("--schedule.timestep random_decay --schedule.random-decay.at 2", ["--schedule.random-decay.at 2"]),
    ("--schedule.timestep random_decay --schedule.random-decay.curve linear --schedule.random-decay.at 0.5",
     ["--schedule.random-decay.at", "step, not linear"]),
    ("--schedule.timestep random_decay --schedule.random-decay.t-max-end 0.99", ["20 … 980", "20 … 990", "t_max_end ≤ t_max"]),
    ("--schedule.timestep random_decay --schedule.random-decay.t-min-end 0.1", ["20 … 980", "100 … 500", "t_min_end ≤ t_min"]),
    ("--schedule.timestep random_decay --schedule.random-decay.t-max-end nan", ["--schedule.random-decay.t-max-end nan"]),
    ("--schedule.timestep random_decay --schedule.random-decay.t-min-end -1", ["--schedule.random-decay.t-min-end -1"]),
    ("--schedule.dreamtime.m1 800", ["--schedule.dreamtime", "not uniform"]),
    ("--schedule.timestep dreamtime --schedule.dreamtime.s1 0", ["--schedule.dreamtime.s1 0", "above 0"]),
    ("--schedule.timestep dreamtime --schedule.dreamtime.m2 -1", ["--schedule.dreamtime.m2 -1"]),
    ("--schedule.weight dreamtime --schedule.dreamtime.m2 900", ["--schedule.dreamtime.m2 900", "m2 ≤ m1"]),
    ("--algo.name ism --schedule.timestep constant --schedule.t 50", ["t = 50", "from 80 to 999"]),
    ("--algo.name ddim --schedule.t-max 0.9", ["--schedule.t-max", "not ddim"]),
    ("--rep.init image", ["--rep.init-images"]),
    ("--rep.init noise --rep.init-images {p}/good.png", ["--rep.init-images", "noise"]),
    ("--rep.init image --rep.init-images {p}/missing.png", ["missing.png", "no such file"]),
    ("--rep.init image --rep.init-images {p}/broken.png", ["broken.png"]),
    ("--rep.init image --rep.init-images {p}/chunk.png", ["chunk.png"]),
    ("--rep.init image --rep.init-images {p}/text.png", ["text.png"]),
    ("--rep.init image --rep.init-images {p}/empty", ["empty"]),
    ("--rep.init image --rep.init-images {p}/good.png {p}/good.png {p}/good.png", ["3 are given", "1 or 4"]),
    ("--algo.name dds", ["dds", "--source-image", "missing"]),
    ("--algo.name pds --source-image {p}/good.png", ["pds", "--source-prompt", "missing"]),
    ("--algo.name dds --source-prompt cat --source-image {p}/missing.png", ["missing.png", "no such file"]),
    ("--algo.name dds --source-prompt cat --source-image {p}/broken.png", ["broken.png"]),
    ("--algo.name dds --source-prompt cat --source-image {p}/good.png {p}/good.png", ["--source-image", "2 are given"]),
    ("--algo.name dds --source-prompt cat dog --source-image {p}/good.png", ["--source-prompt", "2 are given"]),
    ("--source-image {p}/good.png", ["--source-image", "dds and pds", "sds"]),
    ("--source-prompt cat", ["--source-prompt", "dds and pds", "sds"]),
    ("--rep.init source", ["--rep.init source", "dds and pds"]),
    ("--algo.name csd --algo.guidance-scale 3", ["--algo.guidance-scale", "csd has none"]),
    ("--algo.name csd --algo.csd.w2-end nan", ["--algo.csd.w2-end nan"]),
    ("--algo.name nfsd --algo.nfsd.denoised-below 2", ["--algo.nfsd.denoised-below 2"]),
    ("--algo.name bridge --algo.bridge.switch -1", ["--algo.bridge.switch -1"]),
    ("--algo.name vsd --algo.vsd.lora-rank 0", ["--algo.vsd.lora-rank 0"]),
    ("--algo.name vsd --algo.vsd.lora-particles 0", ["--algo.vsd.lora-particles 0"]),
    ("--algo.name vsd --algo.vsd.lora-updates -1", ["--algo.vsd.lora-updates -1"]),
    ("--algo.name vsd --algo.vsd.lora-lr 0", ["--algo.vsd.lora-lr 0"]),
    ("--algo.name ism --algo.ism.delta-t 0", ["--algo.ism.delta-t 0"]),
    ("--algo.name ism --algo.ism.delta-t-start 0", ["--algo.ism.delta-t-start 0"]),
    ("--algo.name ism --algo.ism.max-steps 0", ["--algo.ism.max-steps 0"]),
    ("--algo.name ism --schedule.t-max 0.05", ["--schedule.t-max 0.05", "80"]),
    ("--algo.name sdi --algo.sdi.inversion-steps 0", ["--algo.sdi.inversion-steps 0"]),
    ("--algo.name sdi --algo.sdi.eta -1", ["--algo.sdi.eta -1"]),
    ("--algo.name pds --algo.pds.ladder 0 --source-prompt a --source-image {p}/good.png", ["--algo.pds.ladder 0"]),
    ("--algo.name pds --algo.pds.posterior wrong", ["wrong", "authors", "exact"]),
    ("--seed 4294967296", ["--seed 4294967296"]),
    ("--rep.init constant --rep.init-std 2", ["--rep.init-std", "constant"]),
    ("--rep.init noise --rep.init-color 1 0 0", ["--rep.init-color", "noise"]),
    ("--algo.vsd.lora-rank 8", ["--algo.vsd.", "not sds"]),
    ("--schedule.timestep ddim", ["--schedule.timestep ddim", "not sds"]),
    ("--algo.name ddim --steps 1000", ["--steps 1000"]),
    ("--algo.name ddim --steps 600", ["--steps 600", "599"]),
    ("--algo.name pds --algo.pds.ladder 1001 --source-prompt a --source-image {p}/good.png", ["--algo.pds.ladder 1001"]),
    ("--algo.name ddim --rep.kind pixel", ["--rep.kind pixel", "ddim needs latent"]),
    ("--algo.name ddim --rep.lr 0.1", ["--rep.lr 0.1", "ddim needs 1"]),
    ("--algo.name ddim --schedule.timestep uniform", ["--schedule.timestep uniform", "ddim needs ddim"]),
    ("--out {p}/empty", ["empty", "exists"]),
    ("--out {p}/file", ["file", "exists"]),
    ("--out {p}/file/run", ["file"]),
    ("--out /proc/run", ["/proc/run"]),
    ("--prior.path {p}/missing", ["missing", "no such folder"]),
    ("--prior.path {p}/empty", ["empty", "model_index.json"]),
    ("--prior.path {p}/file", ["file", "model_index.json"]),
    ("--prior.path {p}/mangled", ["model_index.json", "mangled"]),
    ("--prior.path {p}/listed", ["model_index.json", "listed"]),
    ("--prior.path ~nobody-at-all/x", ["~nobody-at-all"]),
    ("--prior.device cuda:77", ["cuda:77"]),
    ("--prior.device abacus", ["abacus"]),
]  # fmt: skip


@pytest.mark.parametrize("flags, words", WRONG, ids=[flags for flags, _ in WRONG])
def test_wrong_input(flags, words, place, tiny, capsys, monkeypatch):
    """In process, for speed; test_as_a_user below runs the real command."""
    given = [part.format(p=place) for part in flags.split()]
    if not flags.startswith("--prior.path"):
        given += ["--prior.path", str(tiny)]
    if not flags.startswith("--out"):
        given += ["--out", str(place / "out")]
    before = sorted(place.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["sds2d.py", *given])
    with pytest.raises(SystemExit) as end:
        sds2d.main()
    error = [line for line in capsys.readouterr().err.splitlines() if line]
    assert end.value.code == 2
    assert len(error) == 1 and error[0].startswith("sds2d.py: ")
    for word in words:
        assert word in error[0]
    assert sorted(place.rglob("*")) == before, "nothing is written"


def test_as_a_user(command, tmp_path):
    done = command("--algo.name", "foo", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stdout == ""
    assert "sds" in done.stderr and not list(tmp_path.iterdir())


def test_no_hub(command, tmp_path):
    """A hub id that can't be fetched: one line that names the embedded prior."""
    done = command("--prior.path", "owner/name", cwd=tmp_path, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "owner/name" in done.stderr and "ships with sds2d" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_hub_behind_a_dead_proxy(monkeypatch):
    """The library tries for half a minute before it says so; here it gives up at once."""
    import huggingface_hub

    def refused(*arguments, **options):
        raise ConnectionError("Cannot connect to proxy.\nConnection refused")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refused)
    with pytest.raises(sds2d.InputError, match="owner/name.*ships with sds2d.*Cannot connect to proxy"):
        model_index("owner/name")


def test_help_answers_at_once():
    """No heavy library is loaded before the settings are parsed."""
    code = """
import sys, sds2d
try:
    sds2d.parse(["--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"torch", "diffusers", "transformers", "imageio", "numba", "matplotlib"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--algo.name" in done.stdout and "--prior.path" in done.stdout


def test_prior_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sds2d.parse([]).prior.path == "priors/emoji64"
