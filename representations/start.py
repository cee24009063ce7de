"""Pictures that a representation may start from: a flat colour, or image files."""

from pathlib import Path

from prior import InputError


def open_image(path):
    """The file as a Pillow RGB image: turned as its EXIF says, transparency laid over white.

    Raises InputError for a file that is missing or no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file).convert("RGBA")
    except FileNotFoundError as error:
        raise InputError(f"image {path}: no such file") from error
    except Exception as error:  # A broken file can raise whatever its format's decoder trips over.
        raise InputError(f"image {path} can not be read: {error}") from error
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def load_image(path, size):
    """The file as float (3, size, size) in [0, 1], its middle square resized; says so where that changes it."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    picture = open_image(path)
    if picture.size != (size, size):
        width, height = picture.size
        cropped = "" if width == height else f", its middle {min(width, height)}×{min(width, height)}"
        print(f"{Path(path).name}: {width}×{height}{cropped} is resized to {size}×{size}")
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).float() / 255


def start_images(config, prior, particles):
    """What --rep.init constant and image ask for: (B, 3, H, W) in [0, 1] on the prior's device."""
    import torch

    size = prior.image_size
    if config.init == "constant":
        pictures = torch.tensor(config.init_color).view(1, 3, 1, 1).expand(len(particles), 3, size, size)
    else:
        pictures = torch.stack([load_image(path, size) for path in config.init_images])
        pictures = pictures.repeat_interleave(len(particles) // len(pictures), 0)
    return pictures.to(prior.device)
