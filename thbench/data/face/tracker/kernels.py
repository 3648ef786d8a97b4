"""Two of the operators in machine code of our own, for single images on a CPU.

A small convolution costs PyTorch some 30 us before its first product, and Face Mesh has dozens in a
row. These loops are compiled by Numba at first use and kept on disk where that can be written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from metrics.compiling import compile_lock

PIXELS = 600  # of all images together, up to which these loops are the quicker ones


def _compiled(*signature: str) -> Callable[[Callable[..., None]], Any]:
    def compile_(loops: Callable[..., None]) -> Any:
        options: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy", "nogil": True}
        try:
            with compile_lock():
                return njit(list(signature), cache=True, **options)(loops)
        except RuntimeError:  # no folder to keep it in
            return njit(list(signature), **options)(loops)

    return compile_


@_compiled("void(f4[:,:,:,::1], f4[:,:,::1], f4[::1], i8, i8, i8, f4[:,:,:,::1])")
def _depthwise(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, top: int, left: int,
    out: np.ndarray,
) -> None:  # fmt: skip
    images, height, width, channels = x.shape
    for n in range(images):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                y, z = i * stride - top, j * stride - left
                to = out[n, i, j]
                if y >= 0 and z >= 0 and y + 3 <= height and z + 3 <= width:
                    for c in range(channels):
                        to[c] = (
                            bias[c]
                            + x[n, y, z, c] * weight[0, 0, c]
                            + x[n, y, z + 1, c] * weight[0, 1, c]
                            + x[n, y, z + 2, c] * weight[0, 2, c]
                            + x[n, y + 1, z, c] * weight[1, 0, c]
                            + x[n, y + 1, z + 1, c] * weight[1, 1, c]
                            + x[n, y + 1, z + 2, c] * weight[1, 2, c]
                            + x[n, y + 2, z, c] * weight[2, 0, c]
                            + x[n, y + 2, z + 1, c] * weight[2, 1, c]
                            + x[n, y + 2, z + 2, c] * weight[2, 2, c]
                        )
                    continue
                to[:] = bias
                for k in range(max(0, -y), min(3, height - y)):
                    for m in range(max(0, -z), min(3, width - z)):
                        for c in range(channels):
                            to[c] += x[n, y + k, z + m, c] * weight[k, m, c]


@_compiled("void(f4[:,::1], f4[:,::1], f4[::1], f4[:,::1])")
def _add_prelu(a: np.ndarray, b: np.ndarray, slopes: np.ndarray, out: np.ndarray) -> None:
    for p in range(a.shape[0]):
        for c in range(a.shape[1]):
            v = a[p, c] + b[p, c]
            out[p, c] = max(v, np.float32(0)) + slopes[c] * min(v, np.float32(0))


def depthwise(
    weight: Tensor, bias: Tensor, stride: int, before: tuple[int, int], size: tuple[int, int]
) -> Callable[[Tensor], Tensor]:
    """A convolution of each channel with a kernel of its own.

    Args:
        weight: (3, 3, C).
        bias: (C,).
        stride: in both directions.
        before: rows and columns of zeros before the first.
        size: of the result.

    Returns:
        From (n, H, W, C) to (n, *size, C).
    """
    kernel, shift = weight.contiguous().numpy(), bias.numpy()

    def run(x: Tensor) -> Tensor:
        out = torch.empty(len(x), *size, x.shape[-1])
        _depthwise(x.contiguous().numpy(), kernel, shift, stride, *before, out.numpy())
        return out

    return run


def add_prelu(slopes: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """A sum, its negative values by the channel's slope (C,)."""
    factors = slopes.numpy()

    def run(a: Tensor, b: Tensor) -> Tensor:
        out = torch.empty(a.shape)
        flat = (-1, a.shape[-1])
        _add_prelu(
            a.reshape(flat).numpy(), b.reshape(flat).numpy(), factors, out.view(flat).numpy()
        )
        return out

    return run
