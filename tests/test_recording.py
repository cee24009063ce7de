"""Files appear whole or not at all; grids show what they are given."""

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import sds2d
from errors import InputError
from recording import pictures, recorder
from recording.folder import make_folder, write_atomic
from recording.pictures import font, grid, to_pillow, wrap
from recording.video import frames


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, lambda beside: beside.write_text("old"))

    def fails(beside):
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fails)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


BEFORE_THE_REST = ["final.png", "final_00.png", "checkpoint.pt"]


@pytest.mark.parametrize(
    "fails, left",
    [
        ("save_video", "the video"),
        ("page", "index.html"),
        ("plot_schedule", "schedule.png"),
        ("probe", "timesteps/"),
        ("heat_grid", "gradients/"),
    ],
)
def test_the_last_picture_comes_first(tiny, tmp_path, monkeypatch, capsys, fails, left):
    """What fails once a run is over is told in a line, and costs neither its picture nor its checkpoint."""
    out, when = tmp_path / "run", []

    def broken(*arguments, **options):
        when.append([(out / name).is_file() for name in BEFORE_THE_REST])
        if all(when[-1]):
            raise RuntimeError("no encoder\nlong story")
        return working(*arguments, **options)

    working = getattr(recorder, fails)
    monkeypatch.setattr(recorder, fails, broken)
    flags = ["--prior.path", str(tiny), "--steps", "2", "--particles", "1", "--log.timesteps"]
    flags += ["500"] if fails == "probe" else []
    monkeypatch.setattr(sys, "argv", ["sds2d.py", *flags, "--quiet", "--out", str(out)])
    sds2d.main()  # without SystemExit: exit code 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [f"warning: {left} could not be written: no encoder"]
    assert printed.out == f"{out}/final.png\n" and all(when[-1])
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == 2
    with Image.open(out / "final.png") as picture:
        picture.load()


def test_a_representations_files_come_after_the_picture(tiny, tmp_path, monkeypatch, capsys):
    def files(self):
        raise OSError("no room")

    monkeypatch.setattr(sds2d.REPRESENTATIONS["pixel"], "files", files)
    flags = ["--prior.path", str(tiny), "--rep.kind", "pixel", "--steps", "1", "--particles", "1", "--log.timesteps"]
    sds2d.run(sds2d.parse([*flags, "--quiet", "--out", str(tmp_path / "run")]))
    assert capsys.readouterr().err == "warning: the representation's files could not be written: no room\n"
    for name in (*BEFORE_THE_REST, "video.mp4", "index.html"):
        assert (tmp_path / "run" / name).is_file()


def test_before_the_end_what_fails_ends_the_run(tiny, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("no room")

    monkeypatch.setattr(recorder, "save_sheet", full)
    with pytest.raises(OSError, match="no room"):
        sds2d.run(sds2d.parse(["--prior.path", str(tiny), "--steps", "1", "--out", str(tmp_path / "run")]))


def test_startup_loads_nothing_slow():
    """`loading PyTorch` is said before PyTorch is loaded, and the garbage collector rests until the first step."""
    code = """
import gc, sys
from recording import startup
startup.before_imports()
assert "torch" not in sys.modules and "numpy" not in sys.modules and not gc.isenabled()
startup.before_first_step()
assert gc.isenabled() and gc.get_freeze_count() > 0
"""
    for flags, said in (([], "loading PyTorch …\n"), (["--quiet"], "")):
        done = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, said)


def test_to_pillow_shows_what_is_outside_as_the_bound():
    image = torch.tensor([-0.3, 0.0, 0.5, 1.0, 1.7]).view(1, 1, 5).expand(3, 1, 5)
    assert np.asarray(to_pillow(image))[0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_grid_has_a_row_a_label_and_even_sides():
    images = torch.rand(6, 3, 16, 16) / 2
    images[4] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)  # second row, second of three
    sheet = grid(images, ["first", "second"], 3, 50)
    assert sheet.width % 2 == sheet.height % 2 == 0
    side = 64  # the least whole multiple of 16 that is 50 or more
    row = 26 + side + 8
    red = (np.asarray(sheet) == (255, 0, 0)).all(-1)
    ys, xs = np.where(red)
    assert (ys.min(), ys.max()) == (row + 26, row + 26 + side - 1)
    assert (xs.min(), xs.max()) == (8 + side + 8, 8 + 2 * side + 8 - 1)
    label = np.asarray(sheet)[:26]
    assert label.min() < 100, "the label is written"


def test_pictures_shrink_where_a_grid_would_be_too_large(monkeypatch):
    monkeypatch.setattr(pictures, "MOST", 4000)
    sheet = grid(torch.rand(6, 3, 16, 32), ["first", "second"], 3, 50)
    height, width = (sheet.height - 2 * (8 + 26)) // 2, (sheet.width - 4 * 8) // 3
    assert 6 * height * width <= 4000 < 6 * (height + 1) * (width + 2) and width in (2 * height, 2 * height + 1)


def test_a_saved_sheet_has_the_pixels_and_square_ones(tmp_path):
    sheet = grid(torch.rand(6, 3, 16, 16), ["first", "second"], 3, 50)
    pictures.save_sheet(tmp_path / "images" / "sheet.png", sheet)
    with Image.open(tmp_path / "images" / "sheet.png") as saved:
        assert saved.mode == "RGB" and np.array_equal(saved, sheet) and saved.info.get("aspect", (1, 1)) == (1, 1)


def test_labels_are_shortened_to_the_width():
    assert wrap("a\n red  apple", 400) == ["a red apple"]
    (short,) = wrap("word " * 5000, 300, 1)
    assert short.endswith("…") and 150 < font().getlength(short) <= 300
    assert wrap("", 100, 1) == [""]


@pytest.mark.slow
def test_video_frames_stay_within_what_codecs_take(tmp_path):
    def shape(width, height):
        Image.new("RGB", (width, height)).save(tmp_path / "sheet.png")
        ((picture, _),) = frames([tmp_path / "sheet.png"], 10)
        return picture.shape

    assert shape(300, 200) == (200, 300, 3)
    height, width, _ = shape(20000, 1002)
    assert width == 4096 and height % 2 == 0 and abs(height - 205) < 3
    assert shape(14000, 13000)[1] == 4096, "more than Pillow opens without a word"


def make(folder):
    return make_folder(folder, {"config.yaml": f"made by {os.getpid()}"}, unique=folder.name == "default").name


@pytest.mark.parametrize("name, made", [("named", 1), ("default", 8)])
def test_processes_that_make_one_folder_do_not_mix(tmp_path, name, made):
    """Eight at once: of one name one process makes the folder; of a default name each makes its own."""
    with concurrent.futures.ProcessPoolExecutor(8, multiprocessing.get_context("fork")) as pool:
        ends = [pool.submit(make, tmp_path / name) for _ in range(8)]
    names = [end.result() for end in ends if not end.exception()]
    assert len(names) == len(set(names)) == made and sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    assert all(isinstance(end.exception(), InputError) for end in ends if end.exception())
    texts = {(tmp_path / name / "config.yaml").read_text() for name in names}
    assert all(text.startswith("made by ") for text in texts)


def test_a_long_label_has_several_lines():
    """Nothing of it is lost, and the pictures stand below."""
    text = "a microphone on a brown background in flat style"
    lines = wrap(text, 200)
    assert len(lines) == 2 and " ".join(lines) == text and all(font().getlength(line) <= 200 for line in lines)
    assert wrap("word " * 500, 200)[2].endswith("…") and len(wrap("word " * 500, 200)) == 3
    assert wrap("x" * 300, 200)[2].endswith("…") and font().getlength(wrap("x" * 300, 200)[0]) <= 200
    sheet = np.asarray(grid(torch.zeros(2, 3, 192, 192), [text, "a"], 1, 192))
    black = (sheet[:, 100] == 0).all(-1).nonzero()[0]
    assert black[0] == 9 + 17 * 2 and black[-1] == 2 * (9 + 17 * 2) + 192 + 8 + 192 - 1
