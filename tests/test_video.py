"""The video: its length, and its colours in a real browser."""

import base64
import json
import re

import av
import pytest
from PIL import Image
from test_page import browse, needs_browser  # noqa: F401, fixtures

from recording.video import save_gif, save_video

COLOR = (200, 60, 30)


def sheets(folder, count, size):
    files = []
    for number in range(count):
        files.append(folder / f"step_{number:06d}.png")
        Image.new("RGB", size, COLOR if number == count - 1 else (0, number % 9, 255)).save(files[-1])
    return files


@pytest.mark.parametrize("count", [1, 11, 300])
def test_it_lasts_four_seconds_and_the_last_picture_one_more(tmp_path, count):
    save_video(tmp_path / "video.mp4", sheets(tmp_path, count, (32, 32)), 10)
    with av.open(tmp_path / "video.mp4") as video:
        frames = [frame.to_ndarray(format="rgb24")[16, 16] for frame in video.decode(video=0)]
    last = sum(bool(frame[0] > 100) for frame in frames)
    assert len(frames) >= 40 and last >= 11 and len(frames) - last == (count - 1) * max(1, -(-40 // count))


def test_gif(tmp_path):
    save_gif(tmp_path / "video.gif", sheets(tmp_path, 3, (32, 48)), 10)
    with Image.open(tmp_path / "video.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (32, 48) and gif.info["loop"] == 0
        gif.seek(2)
        assert gif.info["duration"] == 2400 and gif.convert("RGB").getpixel((5, 5)) == COLOR


@needs_browser
@pytest.mark.parametrize("height", [64, 800])
def test_colours_in_a_browser(tmp_path, browse, height):  # noqa: F811
    """Where a video says nothing, browsers take 720 lines and more for BT.709, and fewer for BT.601."""
    save_video(tmp_path / "video.mp4", sheets(tmp_path, 1, (96, height)), 10)
    data = base64.b64encode((tmp_path / "video.mp4").read_bytes()).decode()
    (
        tmp_path / "page.html"
    ).write_text(f"""<video id="video" muted autoplay src="data:video/mp4;base64,{data}"></video><script>
      const video = document.getElementById("video")
      video.requestVideoFrameCallback(() => {{
        const canvas = document.createElement("canvas"), out = document.createElement("pre")
        canvas.width = video.videoWidth
        canvas.height = video.videoHeight
        const context = canvas.getContext("2d")
        context.drawImage(video, 0, 0)
        out.id = "report"
        out.textContent = JSON.stringify([...context.getImageData(40, 30, 1, 1).data])
        document.body.append(out)
      }})
    </script>""")
    for _ in range(4):  # The browser's clock may run out before its decoder has begun.
        done, _ = browse(tmp_path / "page.html", 500)
        report = re.search(r'<pre id="report">(.*?)</pre>', done.stdout)
        if report:
            break
    color = json.loads(report[1])
    assert all(abs(a - b) <= 3 for a, b in zip(color, COLOR, strict=False)), color
