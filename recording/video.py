"""video.mp4, made of pictures that are on the disk already: one is in memory at a time, and a run that was killed lost none."""

import contextlib
import struct

from recording.files import write


def save_video(path, pictures, fps):
    """pictures: files of one size, in order. Raises OSError where the disk has no room for them all."""
    import imageio
    from PIL import Image

    from recording.pictures import video_frame

    def encode(beside):
        with imageio.get_writer(
            beside,
            fps=fps,
            codec="libx264",
            macro_block_size=2,
            quality=8,
            ffmpeg_log_level="quiet",
            output_params=["-preset", "veryfast"],
        ) as video:
            for picture in pictures:
                with any_size(), Image.open(picture) as file:
                    video.append_data(video_frame(file.convert("RGB")))
        # The encoder is a process of its own, which does not say how it ended.
        if not is_whole(beside):
            raise OSError(f"{path.name} could not be written whole; the disk may be full")

    write(path, encode)


def is_whole(file):
    """Whether an MP4's boxes fill it to its end, and its index, which is written last, is among them. ISO/IEC 14496-12, 4.2."""
    names, at, size = [], 0, file.stat().st_size
    with open(file, "rb") as opened:
        while at + 8 <= size:
            opened.seek(at)
            length, name = struct.unpack(">I4s", opened.read(8))
            if length == 1:  # a 64-bit length follows
                length = int.from_bytes(opened.read(8), "big")
            if length < 8:
                break
            names.append(name)
            at += length
    return at == size and b"moov" in names


@contextlib.contextmanager
def any_size():
    """Our own pictures are no attack, however many particles they show."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
