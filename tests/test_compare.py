"""sweep.py --runs: runs that exist, side by side."""

import csv
import html
import json
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file
from test_page import EARS, browse, folder, needs_browser  # noqa: F401, fixtures

import sweep

HAND = """<script>
  addEventListener("load", () => setTimeout(() => {
    const slider = document.getElementById("step"), view = document.getElementById("view"), shown = []
    for (const [name, place] of [["images", 0], ["images", slider.max], ["x0", slider.max]]) {
      view.value = name
      slider.value = place
      slider.dispatchEvent(new Event("input", { bubbles: true }))
      const images = [...document.querySelectorAll("#panels figure:not([hidden]) img")]
      shown.push(images.map(image => image.getAttribute("src")))
    }
    setTimeout(() => {
      const out = document.createElement("pre")
      out.id = "report"
      const broken = [...document.querySelectorAll("img[src]")].filter(image => !image.naturalWidth).length
      out.textContent = JSON.stringify({ shown, broken, errors: window.errors,
        curves: document.querySelectorAll("#curves svg").length,
        lines: document.querySelectorAll("#curves polyline").length,
        wide: document.documentElement.scrollWidth > innerWidth,
        cells: [...document.querySelectorAll("table tr")].map(row => [...row.children].map(cell => cell.textContent)) })
      document.body.append(out)
    }, 300)
  }, 300))
</script>"""


@pytest.fixture
def runs(folder, tmp_path):  # noqa: F811
    """Two runs that differ in their method, their length and what they have of pictures."""
    home = tmp_path / "runs"
    for name in ("one #1", "two & <b>"):
        shutil.copytree(folder, home / name, ignore=shutil.ignore_patterns("runs"))
    config = home / "two & <b>" / "config.yaml"
    config.write_text(config.read_text().replace("name: dds", "name: sds").replace("- a fish", "- a dog"))
    for file in [*(home / "two & <b>").glob("*/step_000005.png"), *(home / "two & <b>" / "density").glob("*")]:
        file.unlink(missing_ok=True)
    return [home / "one #1", home / "two & <b>"]


def call(monkeypatch, capsys, *arguments):
    """→ exit code, standard output, the lines of standard error."""
    monkeypatch.setattr(sys, "argv", ["sweep.py", "--runs", *map(str, arguments)])
    code = 0
    try:
        sweep.main()
    except SystemExit as end:
        code = end.code
    out, error = capsys.readouterr()
    return code, out.strip(), error.strip().splitlines()


@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser(runs, tmp_path, browse, width, monkeypatch, capsys):  # noqa: F811
    out = tmp_path / "deep" / "comparison"
    code, said, _ = call(monkeypatch, capsys, *runs, "--out", out)
    assert code == 0 and said.splitlines() == [f"{out}/figure.png", "2 runs: 2 finished"]
    text = (out / "index.html").read_text()
    assert not re.search(r"https?:|@import|url\(", text)
    (out / "index.html").write_text(text.replace("<style>", EARS + "<style>", 1).replace("</html>", HAND + "</html>"))
    done, asked = browse(out / "index.html", width)
    report = json.loads(html.unescape(re.search(r'<pre id="report">(.*?)</pre>', done.stdout, re.S)[1]))
    assert asked == [] and report["errors"] == [] and report["broken"] == 0 and not report["wide"]
    homes = ["../../runs/one%20%231", "../../runs/two%20%26%20%3Cb%3E"]

    def files(name, *steps):
        return [f"{home}/{name}/step_{step:06d}.png" for home, step in zip(homes, steps, strict=True)]

    assert report["shown"] == [files("images", 0, 0), files("images", 5, 4), files("x0", 4, 4)]
    assert report["curves"] == 4 and report["lines"] == 8, "t, weight, gradient norm and CLIP score, a line a run"
    head, *rows = report["cells"]
    assert head == ["run", "algo.name", "prompt", "status", "seconds", "gradient norm", "CLIP score"]
    one, two = (dict(zip(head, row, strict=True)) for row in rows)
    assert (one["run"], two["run"]) == ("one #1", "two & <b>") and (one["algo.name"], two["algo.name"]) == (
        "dds",
        "sds",
    )
    assert float(one["CLIP score"]) == 25 and float(two["seconds"]) == 0.5


def test_labels(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "page"
    assert call(monkeypatch, capsys, *runs, "--labels", "before", "after", "--out", out)[0] == 0
    text = (out / "index.html").read_text()
    assert ">before</a>" in text and ">after</a>" in text and ">one #1</a>" not in text
    with open(out / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["algo.name"]) for row in rows] == [("before", "dds"), ("after", "sds")]
    assert all((out / f"figure.{kind}").stat().st_size > 1000 for kind in ("png", "jpg", "pdf"))


def test_the_figure_has_the_pictures_of_each_run(runs, tmp_path, monkeypatch, capsys):
    """At their ends and at the recorded steps before, pixel for pixel; two prompts are two lines."""
    blue, red = (np.full((2, 40, 60, 3), color, np.uint8) for color in ((9, 90, 200), (200, 9, 90)))
    save_file({"images": blue}, runs[1] / "images" / "step_000002.safetensors")
    for index in (0, 1):
        Image.fromarray(red[0]).save(runs[1] / f"final_{index:02d}.png")
    out = tmp_path / "page"
    assert call(monkeypatch, capsys, *runs, "--out", out, "--tile", 60)[0] == 0
    sheet = np.asarray(Image.open(out / "figure.png").convert("RGB"))
    for color in (blue, red):
        ys, xs = np.nonzero((sheet == color[0, 0, 0]).all(-1))
        assert len(ys) == 2 * 40 * 60 and np.ptp(ys) == 81 and np.ptp(xs) == 59
    (out / "index.html").unlink()
    assert call(monkeypatch, capsys, *runs, "--out", out)[0] == 0, "the same command again draws it again"
    assert (out / "index.html").is_file()


@pytest.mark.parametrize(
    "arguments, fact",
    [
        ("{one}", "two"),
        ("{one} {one}", "another name"),
        ("{one} {two} --algo.name sds", "--algo.name"),
        ("{one} {p}/runs", "config.yaml"),
        ("{one} {two} --labels a", "--labels"),
        ("{one} {two} --labels a a", "--labels"),
        ("{one} {two} --out {p}", "--out"),
        ("{one} {two} --color red", "--color"),
    ],
)
def test_wrong_input(runs, tmp_path, monkeypatch, capsys, arguments, fact):
    words = [word.format(one=runs[0], two=runs[1], p=tmp_path) for word in arguments.split()]
    before = sorted(tmp_path.rglob("*"))
    code, _, errors = call(monkeypatch, capsys, *words)
    assert code == 2 and len(errors) == 1 and fact in errors[0]
    assert sorted(tmp_path.rglob("*")) == before
