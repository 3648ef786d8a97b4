"""What paper scale is given and nobody may pass on: data, sound, published weights.

Everything has the real shape and goes through the code that reads the real thing; only the values
are random. Faces are the synthetic ones, drawn at the strategy's own size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.models import vgg19

from baselines.autoencoder import Autoencoder
from metrics import weights
from tests.metrics.test_extractor_arcface import field, tensor_info
from thbench.core.files import replacing
from thbench.data import manifest
from thbench.data.embedding.encoders import ENCODERS
from thbench.data.synthetic.make import synthesize

SECONDS = {128: 8.2, 256: 3.0, 512: 3.0}
"""Length of the clips by size: at 128 pixels PBNet learns from sequences of 200 frames."""
SPLITS = {"train": 2, "val": 1, "test": 1}


def faces(folder: Path, size: int, workers: int = 1) -> Path:
    """A prepared data set of four clips, made unless it is there."""
    root = folder / f"faces-{size}"
    people = sum(SPLITS.values())
    synthesize(
        root, identities=people, seconds=SECONDS[size], size=size, workers=workers, splits=SPLITS
    )
    return root


def sound(root: Path, encoder: str) -> int:
    """Random embeddings as wide as those of ``encoder`` for all clips; returns the width.

    The encoders' own weights are not here. Those that need none have made theirs already.
    """
    width = ENCODERS.load(encoder.partition("=")[0]).default_dim
    for i, clip in enumerate(manifest.read(root)):
        path = root / "audio" / encoder / f"{clip.id}.npy"
        if path.is_file():
            continue
        drawn = np.random.default_rng(i).standard_normal((clip.n_frames, width), np.float32)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.save(file, drawn)
    return width


def published(folder: Path, names: Iterable[str]) -> None:
    """Random weights in the files of ``names``, whose hashes this process then takes for theirs."""
    for name in names:
        entry = weights.WEIGHTS[name]
        path = folder / entry.file
        if not path.is_file():
            with replacing(path) as temporary:
                MAKERS[name](temporary)
        weights.WEIGHTS[name] = replace(entry, sha256=weights.sha256(path))


def autoencoder(folder: Path) -> Path:
    """Stable Diffusion's autoencoder as diffusers saves it, with random weights."""
    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        Autoencoder().vae.save_pretrained(folder)
    return folder


def _vgg19(path: Path) -> None:
    torch.manual_seed(0)
    torch.save(vgg19(weights=None, init_weights=False).state_dict(), path)


def _arcface(path: Path) -> None:
    """Aligned faces (n, 3, 112, 112) to (n, 512): one convolution in place of fifty layers."""
    cell, width = 16, 512
    drawn = np.random.default_rng(0).standard_normal((width, 3, cell, cell), np.float32)
    drawn /= math.sqrt(3 * cell**2)
    shape = b"".join(field(1, n) for n in drawn.shape)
    kernel = shape + field(2, 1) + field(8, "w") + field(9, drawn.tobytes())
    nodes = (
        _node("Conv", ("x", "w"), "looked", kernel_shape=(cell, cell), strides=(cell, cell)),
        _node("GlobalAveragePool", ("looked",), "pooled"),
        _node("Flatten", ("pooled",), "y"),
    )
    graph = b"".join(field(1, node) for node in nodes) + field(2, "random") + field(5, kernel)
    graph += field(11, tensor_info("x", "n", 3, 112, 112))
    graph += field(12, tensor_info("y", "n", width))
    path.write_bytes(field(1, 8) + field(8, field(2, 13)) + field(7, graph))


def _node(kind: str, inputs: Iterable[str], output: str, **lists: tuple[int, ...]) -> bytes:
    """A node of an ONNX graph, with attributes that are lists of whole numbers."""
    node = b"".join(field(1, name) for name in inputs) + field(2, output) + field(4, kind)
    for name, values in lists.items():
        items = b"".join(field(8, value) for value in values)
        node += field(5, field(1, name) + items + field(20, 7))
    return node


MAKERS = {"vgg19": _vgg19, "arcface": _arcface}
