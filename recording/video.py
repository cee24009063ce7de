"""video.mp4, from pictures on disk: one is in memory at a time, and a run that was killed has lost none."""

import contextlib
import struct
from pathlib import Path

from PIL import Image

from recording.folder import write_atomic
from recording.pictures import video_frame


def save_video(path: Path, pictures: list[Path], fps: int) -> None:
    """pictures: files of one size, in order. Raises OSError where the disk is full."""
    import imageio  # Its ffmpeg plugin is not needed before a run ends.

    options = {"codec": "libx264", "macro_block_size": 2, "quality": 8, "output_params": ["-preset", "veryfast"]}

    def encode(part):
        with imageio.get_writer(part, fps=fps, ffmpeg_log_level="quiet", **options) as video:
            for picture in pictures:
                with any_size(), Image.open(picture) as file:
                    video.append_data(video_frame(file.convert("RGB")))
        if not is_whole(part):  # The encoder is another process, whose exit code imageio does not report.
            raise OSError(f"{path.name} could not be written whole; the disk may be full")

    write_atomic(path, encode)


def is_whole(file: Path) -> bool:
    """Whether an MP4's boxes fill it to its end and include its index, written last. ISO/IEC 14496-12, 4.2."""
    data, names, at = file.read_bytes(), [], 0
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        length = int.from_bytes(data[at + 8 : at + 16], "big") if length == 1 else length
        names.append(name)
        at += max(8, length)
    return at == len(data) and b"moov" in names


@contextlib.contextmanager
def any_size():
    """Pillow takes a large picture for an attack; ours may have many particles."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
