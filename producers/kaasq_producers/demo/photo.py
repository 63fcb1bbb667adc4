"""The photograph that the demo starts from: one that Matplotlib ships in its wheel, or a file of the user's."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import msgspec
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kaasq.errors import BadRequest
from kaasq_producers.demo.pipeline import Bytes

SHIPPED = Path("sample_data") / "grace_hopper.jpg"
LONGEST_SIDE = 4096  # pixels; a larger photograph is reduced, for NumPy's sake more than for the device's


class Photo(msgspec.Struct, frozen=True):
    """``pixels`` (height, width, 3) uint8, and a ``caption`` to print below."""

    pixels: Bytes
    caption: str


def load_photo(path: Path | None = None) -> Photo:
    """The photograph in that file, or the shipped one. Raises BadRequest if it is no image that Pillow reads."""
    if path is None:
        # An official portrait by the US Navy (James S. Davis, 1984), in the public domain.
        shipped = Path(mpl.get_data_path()) / SHIPPED
        return Photo(_read(shipped), "Grace Hopper in 1984 (US Navy, public domain)")
    return Photo(_read(path), path.name)


def _read(path: Path) -> Bytes:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            return np.asarray(upright)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadRequest(f"cannot read it as an image: {reason}", at=str(path)) from None
