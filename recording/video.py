"""video.mp4, from pictures on disk: one is in memory at a time, and a run that was killed has lost none."""

import contextlib
import gc
import io
from pathlib import Path

from PIL import Image

from recording.folder import write_atomic
from recording.pictures import video_frame


def save_video(path: Path, pictures: list[Path], fps: int) -> None:
    """pictures: files of one size, in order. Raises OSError where the disk is full."""
    import imageio.v3 as iio  # Its codecs are not needed before a run ends.

    encoded = io.BytesIO()  # The plugin reports a full disk where nobody can catch it.
    gc.freeze()  # Closing it collects garbage twice, among all of PyTorch's objects: a second.
    try:
        with iio.imopen(encoded, "w", extension=".mp4", plugin="pyav") as video:
            video.init_video_stream("libx264", fps=fps, pixel_format="yuv420p")
            for picture in pictures:
                with any_size(), Image.open(picture) as file:
                    video.write_frame(video_frame(file.convert("RGB")))
        del video
    finally:
        gc.unfreeze()
    write_atomic(path, lambda part: part.write_bytes(encoded.getvalue()))


@contextlib.contextmanager
def any_size():
    """Pillow takes a large picture for an attack; ours may have many particles."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
