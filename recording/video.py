"""video.mp4, made of pictures that are on the disk already: one is in memory at a time, and a run that was killed lost none."""

from recording.files import write


def save_video(path, pictures, fps):
    """pictures: files of one size, in order. Raises OSError where the disk has no room for them all."""
    import imageio
    from imageio_ffmpeg import count_frames_and_secs
    from PIL import Image

    from recording.pictures import video_frame

    def encode(beside):
        with imageio.get_writer(
            beside, fps=fps, codec="libx264", macro_block_size=2, quality=8, ffmpeg_log_level="quiet"
        ) as video:
            for picture in pictures:
                with Image.open(picture) as file:
                    video.append_data(video_frame(file.convert("RGB")))
        # The encoder is a process of its own, which does not say how it ended.
        try:
            frames = count_frames_and_secs(beside)[0]
        except RuntimeError:
            frames = 0
        if frames != len(pictures):
            raise OSError(f"{path.name} could not be written whole; the disk may be full")

    write(path, encode)
