"""video.mp4, made of pictures that are on the disk already: one is in memory at a time, and a run that was killed lost none."""

from recording.files import write


def save_video(path, pictures, fps):
    """pictures: files of one size, in order."""
    import imageio
    from PIL import Image

    from recording.pictures import video_frame

    def encode(beside):
        with imageio.get_writer(beside, fps=fps, codec="libx264", macro_block_size=2, quality=8) as video:
            for picture in pictures:
                with Image.open(picture) as file:
                    video.append_data(video_frame(file.convert("RGB")))

    write(path, encode)
