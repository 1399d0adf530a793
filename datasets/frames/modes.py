"""Pictures of any mode as 8-bit RGB."""

import warnings

import numpy as np
from PIL import Image

MOST_PIXELS = 64_000_000  # of a picture or a frame of a video: more than a camera's, and 192 MB once it is decoded
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # it begins above MOST_PIXELS, which is an error
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N")  # 16-bit grey, which Pillow's own conversion clips at 255


def to_rgb(image: Image.Image) -> Image.Image:
    """An RGB picture with 8 bits per colour: grey, palette, alpha, CMYK and 16-bit grey are converted.

    16-bit grey is scaled by 1 / 257, so that its full range becomes 0 to 255. Raises ValueError for 32-bit and floating
    point pictures, whose range a file does not tell, and for more than MOST_PIXELS, before they are decoded.
    """
    check_size(*image.size)
    if image.mode in _DEEP or (image.mode == "I" and image.format == "PNG"):  # Pillow up to 11 opens 16-bit PNG as I
        grey = np.asarray(image).astype(np.float32) / 257
        return Image.fromarray((grey + 0.5).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its mode {image.mode} has no fixed range; save it with 8 or 16 bits per pixel")
    return image.convert("RGB")


def check_size(width: int, height: int) -> None:
    """Raise ValueError for a picture of more than MOST_PIXELS."""
    if width * height > MOST_PIXELS:
        raise ValueError(f"it is {width}x{height} pixels, at most {MOST_PIXELS:,} in all are decoded")
