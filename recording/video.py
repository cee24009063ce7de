"""video.mp4, made of pictures that are on the disk already: one is in memory at a time, and a run that was killed lost none."""

import contextlib

from recording.files import write


def save_video(path, pictures, fps):
    """pictures: files of one size, in order. Raises OSError where the disk has no room for them all."""
    import imageio
    from PIL import Image

    from recording.pictures import video_frame

    def encode(beside):
        with imageio.get_writer(
            beside, fps=fps, codec="libx264", macro_block_size=2, quality=8, ffmpeg_log_level="quiet"
        ) as video:
            for picture in pictures:
                with any_size(), Image.open(picture) as file:
                    video.append_data(video_frame(file.convert("RGB")))
        # The encoder is a process of its own, which does not say how it ended. Twice, since a Ctrl-C ends the counting, too.
        if frames(beside) != len(pictures) and frames(beside) != len(pictures):
            raise OSError(f"{path.name} could not be written whole; the disk may be full")

    write(path, encode)


def frames(video):
    """How many can be read."""
    from imageio_ffmpeg import count_frames_and_secs

    try:
        return count_frames_and_secs(video)[0]
    except RuntimeError:
        return 0


@contextlib.contextmanager
def any_size():
    """Our own pictures are no attack, however many particles they show."""
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
