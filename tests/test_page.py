"""The page of a run in a real browser, opened from disk."""

import html
import json
import re
import shutil
import socketserver
import subprocess
import threading

import pytest
import yaml
from PIL import Image

from algorithms import ALGORITHMS
from recording.page import TITLES, page, points
from representations import REPRESENTATIONS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = '</script><script>document.title = "taken"</script> <img src=x onerror="document.title=1"> & \'"`${1}` ☃ \\u003c\n../..'

# What a user's hand would do, and what comes of it, left in the page for the test to read.
HAND = """<script>
  window.addEventListener("load", () => setTimeout(() => {
    const slider = document.getElementById("step"), view = document.getElementById("view"), shown = []
    const first = document.getElementById("at").textContent
    for (const [place, name] of [[0, ""], [1, ""], [slider.max, ""], [slider.max, "x0"]]) {
      view.value = name
      slider.value = place
      slider.dispatchEvent(new Event("input", { bubbles: true }))
      shown.push([...document.querySelectorAll("#panels figure:not([hidden]) img")].map(image => image.getAttribute("src")))
    }
    setTimeout(() => {
      const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src)
      const out = document.createElement("pre")
      out.id = "report"
      out.textContent = JSON.stringify({ shown, first, broken, errors: window.errors, title: document.title,
        at: document.getElementById("at").textContent, heading: document.querySelector("h1").textContent,
        command: document.getElementById("command").textContent, wide: document.documentElement.scrollWidth > innerWidth,
        bands: document.querySelectorAll("#curves polygon").length, lines: document.querySelectorAll("#curves polyline").length,
        cells: [...document.querySelectorAll("table tr")].map(row => [...row.children].map(cell => cell.textContent.trim())) })
      document.body.append(out)
    }, 300)
  }, 300))
</script>"""
EARS = '<script>window.errors = []; window.addEventListener("error", e => window.errors.push(String(e.message)), true)</script>'


@pytest.fixture
def folder(tmp_path):
    """A run's folder as far as the page reads it: an edit of two prompts on Gaussians, three moments, five steps."""
    settings = {
        "prompt": [HOSTILE, "a fish"],
        "seed": 3,
        "seeds": [],
        "steps": 5,
        "particles": 1,
        "log": {"every": 2},
        "algo": {"name": "dds", "guidance_scale": 7.5},
        "rep": {"kind": "gaussian2d"},
        "schedule": {"timestep": "uniform", "weight": "constant"},
        "prior": {"path": "priors/emoji64"},
        "command": ["--prompt", HOSTILE, "a fish"],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "environment.json").write_text(json.dumps({"warnings": ['never taught: "<b>zebra"']}))
    for name in ("images", "gradients", "x0", "density"):
        (tmp_path / name).mkdir()
        for step in (0, 2, 4, 5)[: 4 if name in ("images", "density") else 3]:
            Image.new("RGB", (60, 40), (40 * step, 90, 20)).save(tmp_path / name / f"step_{step:06d}.png")
    (tmp_path / "timesteps").mkdir()
    for name in ("gradients", "x0", "pseudo_gt"):
        Image.new("RGB", (60, 40)).save(tmp_path / "timesteps" / f"{name}_000005.png")
    for name in ("final", "final_00", "final_01", "schedule"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"{name}.png")
    lines = [
        {"step": step, "t": [900, 100], "weight": [1, 1], "grad_norm": [3, step], "seconds": 0.1} for step in range(5)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (tmp_path / "scores.jsonl").write_text(
        "".join(json.dumps({"step": step, "clip_score": [20, 30]}) + "\n" for step in (0, 2, 4, 5))
    )
    return tmp_path


@pytest.fixture
def browse(tmp_path):
    """Opens a file in a browser whose every way out leads here → (the finished process, what it asked for but its
    maker's)."""
    asked = []

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self):
            asked.append(self.rfile.readline().decode(errors="replace").strip())

    def call(file, width):
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            done = subprocess.run(
                [
                    BROWSER,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--dump-dom",
                    "--virtual-time-budget=5000",
                    f"--window-size={width},900",
                    "--enable-logging=stderr",
                    f"--user-data-dir={tmp_path / 'profile'}",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    "--no-first-run",
                    f"--proxy-server=127.0.0.1:{server.server_address[1]}",
                    f"file://{file}",
                ],
                capture_output=True,
                text=True,
                timeout=120,
            )
            server.shutdown()
        return done, [line for line in asked if not re.search(r"[./](google|googleapis|gvt1)\.com[/:]", line)]

    return call


needs_browser = pytest.mark.skipif(not BROWSER, reason="no chromium here: apt install chromium")


@needs_browser
def test_the_proxy_hears_of_requests(tmp_path, browse):
    """The test below could fail."""
    (tmp_path / "leaks.html").write_text('<img src="http://example.org/pixel.png">')
    assert any("example.org" in line for line in browse(tmp_path / "leaks.html", 500)[1])


@needs_browser
@pytest.mark.parametrize("width", [390, 1400])
def test_in_a_browser(folder, browse, width):
    text = page(folder)
    watched = text.replace("<style>", EARS + "<style>", 1).replace("</html>", HAND + "</html>")
    (folder / "index.html").write_text(watched, encoding="utf-8")
    done, asked = browse(folder / "index.html", width)
    assert asked == []
    found = re.search(r'<pre id="report">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    report = json.loads(html.unescape(found[1]))
    assert report["errors"] == [] and report["broken"] == []
    assert "CONSOLE" not in done.stderr, done.stderr
    assert report["shown"] == [
        [
            f"./{name}/step_{step:06d}.png"
            for name, step in zip(("images", "gradients", "x0", "density"), steps, strict=True)
        ]
        for steps in ((0, 0, 0, 0), (2, 2, 2, 2), (5, 4, 4, 5))
    ] + [["./x0/step_000004.png"]]
    assert report["first"] == report["at"] == "step 5" and not report["wide"], "nothing sticks out at the right"
    assert report["bands"] == report["lines"] == 4, "t, weight, gradient norm and CLIP score, with their ranges"
    head, row = report["cells"]
    cells = dict(zip(head, row, strict=True))
    assert cells["algo.name"] == "dds" and cells["algo.guidance-scale"] == "7.5" and cells["seed"] == "3"
    assert cells["status"].split("\n")[0] == "finished" and 'never taught: "<b>zebra"' in cells["status"]
    assert (cells["seconds"], cells["gradient norm"], cells["CLIP score"]) == ("0.5", "3.5", "25")
    assert report["title"].startswith("</script>") and report["heading"] == f"{HOSTILE}\na fish"
    assert HOSTILE.split("\n")[0].split("'")[0] in report["command"]


@needs_browser
def test_the_page_of_a_run_that_goes_on_loads_itself(folder, browse):
    """And keeps the step that was chosen."""
    for name in ("final.png", "schedule.png"):
        (folder / name).unlink()
    hand = """<script>
      window.name = 1 + +window.name
      addEventListener("load", () => setTimeout(() => {
        if (+window.name === 2) for (let id = 0; id < 99; id++) clearInterval(id)  // or the browser waits for no end
        const slider = document.getElementById("step"), first = !location.hash
        if (first) slider.value = 1, slider.dispatchEvent(new Event("input", { bubbles: true }))
        const broken = [...document.images].filter(image => !image.complete || !image.naturalWidth).length
        const out = document.createElement("pre")
        out.id = "report"
        out.textContent = JSON.stringify({ loads: +window.name, broken, at: document.getElementById("at").textContent,
          progress: document.getElementById("progress").textContent, errors: window.errors })
        document.body.append(out)
      }, 300))
    </script>"""
    text = page(folder, "step 2 of 5, 10 s left").replace("<style>", EARS + "<style>", 1)
    (folder / "index.html").write_text(text.replace("</html>", hand + "</html>"), encoding="utf-8")
    done, asked = browse(folder / "index.html", 390)
    report = json.loads(html.unescape(re.search(r'<pre id="report">(.*?)</pre>', done.stdout, re.S)[1]))
    assert asked == [] and report.pop("loads") == 2
    assert report == {"broken": 0, "at": "step 2", "progress": "step 2 of 5, 10 s left", "errors": []}


def test_a_failed_run_says_why(folder):
    (folder / "final.png").unlink()
    (folder / "error.txt").write_text("step 3: the <b>latent</b> is not finite\n\nTraceback …")
    text = page(folder)
    assert (
        "failed" in text and "step 3: the &lt;b&gt;latent&lt;/b&gt; is not finite" in text and "Traceback" not in text
    )


def test_every_recorded_picture_has_a_title():
    """With whoever records it."""
    assert ALGORITHMS["vsd"].titles.keys() == {"phi"} and REPRESENTATIONS["bezier"].titles.keys() == {"paths"}
    assert list(TITLES) == ["images", "gradients", "x0", "pseudo_gt", "phi", "ellipses", "density", "paths"]


def test_nothing_is_named_that_lies_elsewhere(folder):
    text = page(folder)
    assert not re.search(r"https?:|//|@import|url\(", text.split("<script type")[0].replace(HOSTILE, ""))
    assert "<script>document" not in text and 'onerror="' not in text


def test_curves_of_long_runs_are_pooled_and_meet_the_extremes():
    lines = [{"step": step, "t": [step % 7, 100 + step]} for step in range(20_001)]
    drawn = points("t", lines)
    assert len(drawn) <= 500 and drawn[0][0] == 0
    assert min(low for _, low, _, _ in drawn) == 0 and max(high for *_, high in drawn) == 20_100
    assert all(low <= mean <= high for _, low, mean, high in drawn) and points("w", lines) == []
