"""video.mp4 and video.gif, from pictures on disk: a run that was killed has lost none. Of the video one is in memory at
a time."""

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from recording.folder import write_atomic
from recording.pictures import video_frame

SECONDS = 4  # of a video at least


def frames(pictures: list[Path], fps: int) -> Iterator[tuple[np.ndarray, int]]:
    """Each picture (H, W, 3) and its number of frames: as many as SECONDS need, and a second more for the last."""
    each = math.ceil(SECONDS * fps / len(pictures))
    for number, picture in enumerate(pictures, 1):
        with any_size(), Image.open(picture) as file:
            yield video_frame(file.convert("RGB")), each + fps * (number == len(pictures))


def save_video(path: Path, pictures: list[Path], fps: int) -> None:
    """H.264 in BT.709's colours, and marked so: players that find no mark guess them from the height.

    pictures: files of one size, in order. Raises OSError where the disk is full.
    """
    import av  # Its codecs are not needed before a run ends.
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    encoded = io.BytesIO()  # A full disk is reported where somebody can catch it.
    with av.open(encoded, "w", format="mp4") as video:
        stream = video.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        # With mbtree x264 encodes the same frames in a different way each time; veryfast takes half the time.
        context.options = {"mbtree": "0", "preset": "veryfast"}
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for number, (picture, count) in enumerate(frames(pictures, fps)):
            if not number:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
            for _ in range(count):
                frame.pts = None  # the next of the video
                video.mux(stream.encode(frame))
        video.mux(stream.encode())
    write_atomic(path, lambda part: part.write_bytes(encoded.getvalue()))


def save_gif(path: Path, pictures: list[Path], fps: int) -> None:
    """The same as a GIF, which plays anywhere and has 256 colours."""
    import imageio.v3 as iio

    shown, counts = zip(*frames(pictures, fps), strict=True)
    durations = [1000 * count / fps for count in counts]  # milliseconds
    write_atomic(path, lambda part: iio.imwrite(part, list(shown), extension=".gif", duration=durations, loop=0))


@contextlib.contextmanager
def any_size():
    """Pillow takes a large picture for an attack; ours may have many particles."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
