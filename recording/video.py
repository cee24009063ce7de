"""video.mp4 and video.gif, from pictures on disk: a run that was killed has lost none. Of the video one is in memory at
a time."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import av
import imageio.v3 as imageio
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from recording.folder import write_atomic

SECONDS = 4  # of a video at least
LARGEST = 4096  # pixels of a side that video codecs take


def frames(pictures: list[Path], fps: int) -> Iterator[tuple[np.ndarray, int]]:
    """Each picture (H, W, 3), its sides even and shrunk to what codecs take, and its number of frames: as many as
    SECONDS need, and a second more for the last."""
    each = math.ceil(SECONDS * fps / len(pictures))
    for picture in pictures:
        with av.open(io.BytesIO(picture.read_bytes()), format="png_pipe") as file:
            frame = next(file.decode(video=0))
        scale = min(1, LARGEST / max(frame.width, frame.height))
        width, height = (max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height))
        yield frame.to_ndarray(format="rgb24", width=width, height=height), each + fps * (picture == pictures[-1])


def save_video(path: Path, pictures: list[Path], fps: int) -> None:
    """H.264 in BT.709's colours, and marked so: players that find no mark guess them from the height.

    pictures: files of one size, in order. Raises OSError where the disk is full.
    """
    encoded = io.BytesIO()  # A full disk is reported where somebody can catch it.
    with av.open(encoded, "w", format="mp4") as video:
        # With mbtree x264 encodes the same frames in a different way each time; veryfast takes half the time.
        stream = video.add_stream("libx264", rate=fps, options={"mbtree": "0", "preset": "veryfast"})
        stream.pix_fmt, stream.colorspace, stream.color_range = "yuv420p", Colorspace.ITU709, ColorRange.MPEG
        stream.color_primaries, stream.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, (picture, count) in enumerate(frames(pictures, fps)):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            for _ in range(count):
                frame.pts = None  # the next of the video
                video.mux(stream.encode(frame))
        video.mux(stream.encode())
    write_atomic(path, lambda part: part.write_bytes(encoded.getvalue()))


def save_gif(path: Path, pictures: list[Path], fps: int) -> None:
    """The same as a GIF, which plays anywhere and has 256 colours."""
    shown, counts = zip(*frames(pictures, fps), strict=True)
    options = {"extension": ".gif", "duration": [1000 * count / fps for count in counts], "loop": 0}  # milliseconds
    write_atomic(path, lambda part: imageio.imwrite(part, list(shown), **options))
