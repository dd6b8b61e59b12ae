"""Image files of any kind to uint8 arrays with 1 or 3 channels."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from ldm_jax.errors import InputError

EXIF_ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(file: Path | bytes) -> UInt8[np.ndarray, "h w c"]:
    """Decode an image file, given as a path or as its bytes, to uint8 [h w c] with c 1 (grey) or 3 (colour).

    EXIF orientation is applied. Transparency is composited on white. Palettes, CMYK and the other colour spaces become
    RGB (embedded ICC profiles are ignored). 16-bit grey is scaled to 8 bits; black-and-white becomes grey. Of an
    animation the first frame is taken.

    Raises:
      OSError, ValueError, or another error of Pillow's: the file is broken or of a kind that Pillow does not know.
    """
    with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as opened:
        return to_array(upright(opened))


def decode_ids(file: Path) -> Int[np.ndarray, "h w 1"]:
    """The integers of a file whose pixels are class numbers: as they are stored, without palette or scaling.

    Raises:
      InputError: its pixels are colours. Else as `decode`.
    """
    with Image.open(file) as opened:
        image = upright(opened)
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InputError(f"paired: {file} has pixels of mode {image.mode}; accepted: class numbers, mode L or P")
    return np.asarray(image).astype(np.int32)[..., None]


def read_named(name: str, file: Path, how: Callable[[Path], np.ndarray] = decode) -> np.ndarray:
    """The pixels of a file that a user named; InputError under `name` where it can't be read. how: or `decode_ids`."""
    try:
        return how(file)
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: {file} can't be read ({reason})") from error


def header(file: Path) -> tuple[int, int, int]:
    """[h w c] of what `decode` gives, as far as the header tells it (EXIF data may come after the pixels)."""
    with Image.open(file) as opened:
        grey = opened.mode in ("1", "L", "LA", "La", "I") or opened.mode.startswith("I;16")
        h, w = opened.height, opened.width
        turned = opened.getexif().get(EXIF_ORIENTATION) in (5, 6, 7, 8)
    return (w, h, 1 if grey else 3) if turned else (h, w, 1 if grey else 3)


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; as it is where it has none or its EXIF data are broken."""
    image.load()
    try:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    except Exception:  # the pixels are sound, and broken metadata raise nearly every kind of error
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def to_array(image: Image.Image) -> UInt8[np.ndarray, "h w c"]:
    """The pixels of a Pillow image of any mode as uint8 [h w c], by the rules of `decode`."""
    mode = image.mode
    if mode == "I" or mode.startswith("I;16"):
        # Pillow opens 16-bit grey as either mode; its own conversion to 8 bits would clamp instead of scale.
        return scale_16_bit(np.asarray(image, np.int64)[..., None])
    if mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save the image with 8 or 16 bits")
    grey = mode in ("1", "L", "LA", "La")
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA") if mode != "La" else image.convert("LA").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., None] if grey else pixels


def scale_16_bit(pixels: np.ndarray) -> UInt8[np.ndarray, "h w c"]:
    """0..65535 to 0..255, rounded."""
    return ((np.clip(pixels.astype(np.int64), 0, 65535) + 128) // 257).astype(np.uint8)


def check_decodes(file: Path) -> str | None:
    """None if the file can be decoded to its end, else why not, in a few words.

    A JPEG is decoded at an eighth of its size: that still reads every coefficient, for a third of the time.
    """
    try:
        with Image.open(file) as image:
            if image.mode == "F":
                return "floating-point pixels"
            image.draft(image.mode, (max(image.width // 8, 1), max(image.height // 8, 1)))
            image.load()
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on broken data
        return " ".join(str(error).split()) or type(error).__name__
    return None
