"""video.mp4 and video.gif, from the pictures on disk, so that a killed run loses none. The MP4 keeps only one of them
in memory at a time."""

import io
import math
from collections.abc import Iterator
from pathlib import Path

import av
import imageio.v3 as imageio
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL.PngImagePlugin import PngImageFile

from recording.folder import write_atomic

SECONDS = 4  # minimum length of a video
LARGEST = 4096  # greatest side in pixels that video codecs accept


def frames(pictures: list[Path], fps: int) -> Iterator[tuple[np.ndarray, int]]:
    """Each picture (H, W, 3), with even sides and shrunk to what codecs accept, and its number of frames: enough for
    SECONDS in total, and one second more for the last."""
    each = math.ceil(SECONDS * fps / len(pictures))
    for picture in pictures:
        last = fps if picture == pictures[-1] else 0
        with PngImageFile(picture) as image:  # Image.open would refuse the largest grids.
            scale = min(1, LARGEST / max(image.size))
            width, height = (max(2, int(side * scale) // 2 * 2) for side in image.size)
            yield np.asarray(image.convert("RGB").resize((width, height))), each + last


def save_video(path: Path, pictures: list[Path], fps: int) -> None:
    """H.264 in BT.709, and tagged as such: without tags, players guess the colour space from the height.

    pictures: files of the same size, in order. Raises OSError if the disk is full.
    """
    encoded = io.BytesIO()  # so that a full disk raises an error that can be caught
    with av.open(encoded, "w", format="mp4") as video:
        # With mbtree, x264 encodes the same frames differently each time; veryfast halves the time.
        stream = video.add_stream("libx264", rate=fps, options={"mbtree": "0", "preset": "veryfast"})
        stream.pix_fmt, stream.colorspace, stream.color_range = "yuv420p", Colorspace.ITU709, ColorRange.MPEG
        stream.color_primaries, stream.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, (picture, count) in enumerate(frames(pictures, fps)):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture).reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            for _ in range(count):
                frame.pts = None  # the encoder sets it
                video.mux(stream.encode(frame))
        video.mux(stream.encode())
    write_atomic(path, lambda part: part.write_bytes(encoded.getvalue()))


def save_gif(path: Path, pictures: list[Path], fps: int) -> None:
    """The same as a GIF, which plays anywhere but has only 256 colours."""
    shown, counts = zip(*frames(pictures, fps), strict=True)
    options = {"extension": ".gif", "duration": [1000 * count / fps for count in counts], "loop": 0}  # milliseconds
    write_atomic(path, lambda part: imageio.imwrite(part, list(shown), **options))
