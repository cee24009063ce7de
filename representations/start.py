"""Pictures that a representation can start from: a flat colour, or image files."""

import sys
import warnings
from pathlib import Path

import torch

from errors import InputError


def open_image(path):
    """The file as a Pillow RGB image, rotated according to its EXIF, transparency over white; the first frame of an
    animation.

    Raises InputError for a file that is missing, no image, or above Pillow's limit for decompression bombs.
    """
    from PIL import Image, ImageOps

    try:
        if not Path(path).is_file():
            raise InputError(f"image {path}: {'no file' if Path(path).exists() else 'no such file'}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.init()
            with Image.open(
                path, formats=[name for name in Image.OPEN if name != "EPS"]
            ) as file:  # EPS would start a program.
                picture = in_srgb(eight_bits(ImageOps.exif_transpose(file)), file.info.get("icc_profile"))
                picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    except InputError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {path} has more than {Image.MAX_IMAGE_PIXELS} pixels; a smaller one is needed"
        ) from error
    except Exception as error:  # With a broken file, decoders can raise anything.
        raise InputError(f"image {path} cannot be read: {error}") from error
    if picture.mode == "RGB":
        return picture
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def in_srgb(picture, profile):
    """Converts a picture, in colour or grey, from its ICC profile (bytes or None) to sRGB; transparency stays. Most
    photographs have such a profile."""
    import io

    from PIL import ImageCms

    if not profile:
        return picture
    alpha = picture.convert("RGBA").getchannel("A") if picture.has_transparency_data else None
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = own.profile.xcolor_space.strip()
        modes = {"RGB": ("RGB", "RGBA", "P", "PA"), "GRAY": ("L", "LA", "1"), "CMYK": ("CMYK",)}
        if picture.mode not in modes.get(space, ()):
            return picture
        colors = picture.convert("L" if space == "GRAY" else space)
        picture = ImageCms.profileToProfile(colors, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):
        return picture  # An unreadable profile is ignored, as by other programs.
    if alpha:
        picture.putalpha(alpha)
    return picture


def eight_bits(picture):
    """Converts greys of 16 bits, or floats in [0, 1], to 8 bits; Pillow's own conversion would clip them at 255.

    Raises ValueError for values outside these ranges.
    """
    import numpy as np
    from PIL import Image

    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;"):
        return picture
    values, largest = np.asarray(picture, dtype=np.float64), 1 if picture.mode == "F" else 65535
    if not ((values >= 0) & (values <= largest)).all():
        raise ValueError(f"its greys are not all from 0 to {largest}")
    return Image.fromarray((values / largest * 255).round().astype(np.uint8))


def load_image(path, size):
    """The file as float (3, H, W) in [0, 1], centre-cropped and resized to size (H, W); prints a note if this changes
    it."""
    import numpy as np
    from PIL import Image, ImageOps

    picture = open_image(path)
    wanted = size[1], size[0]
    if picture.size != wanted:
        width, height = picture.size
        scale = min(width / wanted[0], height / wanted[1])
        middle = round(wanted[0] * scale), round(wanted[1] * scale)
        cropped = "" if middle == picture.size else f", its middle {middle[0]}×{middle[1]}"
        print(f"{Path(path).name}: {width}×{height}{cropped} is resized to {wanted[0]}×{wanted[1]}", file=sys.stderr)
        picture = ImageOps.fit(picture, wanted, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).float() / 255


def load_images(paths, prior, rows):
    """Files, one for all rows, one per prompt, or one per row → (rows, 3, H, W) in [0, 1] on the prior's device."""
    pictures = torch.stack([load_image(path, prior.image_size) for path in paths])
    return pictures.repeat_interleave(rows // len(pictures), 0).to(prior.device)


def start_images(config, prior, particles):
    """The pictures for --rep.init source, image and constant: (B, 3, H, W) in [0, 1] on the prior's device."""
    if config.init == "source":
        return particles.source_images
    if config.init == "image":
        return load_images(config.init_images, prior, len(particles))
    color = torch.tensor(config.init_color, device=prior.device).view(1, 3, 1, 1)
    return color.expand(len(particles), 3, *prior.image_size)
