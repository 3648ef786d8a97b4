"""The convolutions with which wav2vec 2.0 and HuBERT begin, over audio of any length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FIELD, HOP = 400, 320
"""Samples in a state's receptive field, and from one state to the next."""


def convolve_in_chunks(extractor: Any, waveform: Tensor, chunk: int = 3000) -> Tensor:
    """The convolutions of wav2vec 2.0 or HuBERT over audio, in chunks, as if at once.

    Args:
        extractor: transformers' feature encoder, 400 samples for a state and 320 to the next.
        waveform: (S,), S at least 400.
        chunk: states at a time.

    Returns:
        (1, C, n), n = 1 + (S - 400) // 320.
    """
    n = 1 + (len(waveform) - FIELD) // HOP
    with _normalised_as_a_whole(extractor.conv_layers[0], waveform):
        ends = ((k, min(k + chunk, n)) for k in range(0, n, chunk))
        parts = [waveform[HOP * a : HOP * (b - 1) + FIELD] for a, b in ends]
        return torch.cat([extractor(part[None]) for part in parts], dim=-1)


@contextmanager
def _normalised_as_a_whole(layer: Any, waveform: Tensor) -> Iterator[None]:
    """Let the first layer of a network normalise parts of an audio signal as it would all of it.

    The base models' group norm has one channel a group, so it takes mean and variance over time. A
    layer norm takes them over channels and needs no help.
    """
    norm = getattr(layer, "layer_norm", None)
    if not isinstance(norm, nn.GroupNorm):
        yield
        return
    mean, scale = _moments(layer.conv, waveform, norm.eps)
    gain, bias = norm.weight[:, None], norm.bias[:, None]
    hook = norm.register_forward_hook(lambda _, given, __: (given[0] - mean) * scale * gain + bias)
    try:
        yield
    finally:
        hook.remove()


def _moments(conv: Any, waveform: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and reciprocal deviation over time of each channel of a convolution, (C, 1) each."""
    (size,), (stride,) = conv.kernel_size, conv.stride
    step, n = stride * 2**14, 0
    total, square = torch.zeros(2, conv.out_channels, dtype=torch.float64)
    for start in range(0, len(waveform) - size + 1, step):
        part = waveform[start : start + step + size - stride]
        out = conv(part[None, None])[0].double()
        total, square, n = total + out.sum(1), square + out.square().sum(1), n + out.shape[1]
    mean = total / n
    scale = (square / n - mean.square() + eps).rsqrt()
    return mean.float()[:, None], scale.float()[:, None]
