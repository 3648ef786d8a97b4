"""Reading still pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from thbench.core.errors import UserError
from thbench.core.files import check_file


def read_image(path: str | Path) -> Tensor:
    """A still picture of any kind that Pillow reads, turned upright by its EXIF tag.

    Transparency is laid on white; grey, palette, CMYK and 16-bit pictures become 8-bit RGB.

    Returns:
        uint8 (3, H, W).

    Raises:
        UserError: the file is missing, empty, truncated, or no picture.
    """
    check_file(path)
    try:
        with Image.open(path) as file:
            picture = _to_rgb(ImageOps.exif_transpose(file))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no picture that can be read: use a JPEG or PNG.") from error
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float64)
        scale = 1.0 if values.max() <= 255 and picture.mode == "F" else 257.0
        return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    return picture.convert("RGB")
