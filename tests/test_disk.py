"""A full disk, a folder that vanishes, one that can only be read: one line, exit code 1, and what was there is
whole."""

import json
import resource
import shutil
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT
from PIL import Image

from config import load
from recording import checkpoint


def own_disks():
    """Whether this user may mount disks of its own, as root, or as anybody where user namespaces are open."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0


needs_disks = pytest.mark.skipif(not own_disks(), reason="unshare -rm cannot mount a disk here")


def flags(tiny):
    return ["--prior.path", tiny, "--steps", "60", "--particles", "2", "--log.every", "2", "--eval.clip", "none"]


def one_line(process, error, word):
    assert "Traceback" not in error
    lines = [line for line in error.replace("\r", "\n").splitlines() if line.startswith("sds2d.py: ")]
    assert process.returncode == 1, error
    assert len(lines) == 1 and lines[0].startswith("sds2d.py: ") and word in lines[0], lines
    return lines[0]


def is_whole(folder):
    """Every file of a run that died: none half-written under its own name."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".part" not in path.name]
    for path in files:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
    torch.load(folder / checkpoint.NAME, weights_only=True)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines if line.endswith("\n")] == list(
        range(sum(line.endswith("\n") for line in lines))
    )
    return files


@pytest.mark.slow
@needs_disks
def test_a_full_disk(tiny, tmp_path, command):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    words = [sys.executable, ROOT / "sds2d.py", *flags(tiny), "--out", disk / "run"]
    script = 'disk=$1; kept=$2; shift 2; mount -t tmpfs -o size=1200k tmpfs "$disk"; "$@"; code=$?; '
    script += 'cp -r "$disk" "$kept"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", disk, kept, *words], capture_output=True, text=True
    )
    line = one_line(done, done.stderr, "No space left on device")
    assert f"--resume {disk}/run continues" in line
    assert len(is_whole(kept / "run")) > 10
    (disk / "run").parent.rmdir()
    shutil.move(kept, disk)
    again = command("--resume", disk / "run")
    assert again.returncode == 0, again.stderr
    assert (disk / "run" / "final.png").is_file() and not list(disk.rglob(".*part*"))


@needs_disks
def test_a_video_that_has_no_room(tmp_path):
    """It is an error, and the old video stays."""
    for index in range(30):
        Image.effect_noise((400, 400), 100).save(tmp_path / f"{index:02d}.png")
    disk = tmp_path / "disk"
    disk.mkdir()
    code = """
import sys
from pathlib import Path
from recording.video import save_video
folder = Path(sys.argv[1])
pictures, video = sorted(folder.glob("*.png")), folder / "disk" / "video.mp4"
save_video(video, pictures[:1], 10)
old = video.read_bytes()
try:
    save_video(video, pictures, 10)
except OSError:
    assert video.read_bytes() == old
    assert len(list(video.parent.iterdir())) == 1
    sys.exit(7)
"""
    script = 'mount -t tmpfs -o size=300k tmpfs "$1"; shift; exec "$@"'
    words = ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, "-c", code, tmp_path]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 7 and done.stderr == "", done.stderr


@pytest.mark.slow
def test_a_file_that_may_not_grow(tiny, tmp_path):
    """A quota on files: the least that every system can enforce."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    words = [sys.executable, ROOT / "sds2d.py", *flags(tiny), "--log.tile", "64", "--out", tmp_path / "run"]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=limit)
    one_line(done, done.stderr, "File too large")
    load(tmp_path / "run" / "config.yaml")
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name != ".lock"], "no halves"


def test_a_folder_that_vanishes(nursery, tiny, tmp_path):
    process = nursery.start(*flags(tiny), "--out", tmp_path / "run")
    while process.poll() is None and not (tmp_path / "run" / "images" / "step_000004.png").exists():
        time.sleep(0.01)
    (tmp_path / "run").rename(tmp_path / "gone")
    _, error = process.communicate()
    assert "continues" not in one_line(process, error, "No such file or directory")
    is_whole(tmp_path / "gone")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@needs_disks
def test_folders_that_can_only_be_read(tiny, tmp_path, command):
    disk = tmp_path / "disk"
    disk.mkdir()
    assert command(*flags(tiny), "--steps", 3, "--out", disk / "run").returncode == 0
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}

    def read_only(*words):
        script = 'mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"; shift; exec "$@"'
        words = ["unshare", "-rm", "sh", "-c", script, "sh", disk, sys.executable, ROOT / "sds2d.py", *words]
        return subprocess.run(list(map(str, words)), capture_output=True, text=True)

    done = read_only("--resume", disk / "run", "--steps", 5)
    one_line(done, done.stderr, "Read-only file system")
    done = read_only(*flags(tiny), "--out", disk / "new")
    assert done.returncode == 2 and "cannot be made" in done.stderr
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before
