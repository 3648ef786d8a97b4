"""Reading still images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from thbench.core.errors import UserError
from thbench.core.files import check_file


def read_image(path: str | Path) -> Tensor:
    """A still image of any kind that Pillow reads, turned upright by its EXIF tag.

    Transparent images are put on white; grey, palette, CMYK and 16-bit images become 8-bit RGB.

    Returns:
        uint8 (3, H, W).

    Raises:
        UserError: the file is missing, empty, truncated, or not an image.
    """
    check_file(path)
    try:
        with Image.open(path) as file:
            image = _to_rgb(ImageOps.exif_transpose(file))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is no image that can be read: use a JPEG or PNG.") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float64)
        scale = 1.0 if values.max() <= 255 and image.mode == "F" else 257.0
        return Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8)).convert(
            "RGB"
        )
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
