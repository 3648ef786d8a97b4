"""What the shipped autoencoder of FD2Talk and Hallo loses, on people it has never seen.

    python -m benchmarks.autoencoder [--split test] [--every 10]

Every tenth frame of each clip is encoded and decoded. PSNR says how much is lost, blockiness
whether it leaves a mosaic: the mean difference of pixels across the borders of the latent's cells
over that between neighbours within them, of the decoded frames over that of the frames themselves;
1 where no border is seen. Writes ``autoencoder.md`` and ``autoencoder.png`` (frames above, decoded
below) to ``--report``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.autoencoder import Autoencoder
from benchmarks.held_out import sheet, table
from thbench import config
from thbench.config import SHIPPED_SCALE
from thbench.core.files import write_atomic
from thbench.core.types import to_uint8, to_unit
from thbench.data.store import Store
from thbench.training.runs import load_net

STAGE = "autoencoder"
SHOWN = 10
"""People in the picture."""


def main(argv: Sequence[str] | None = None) -> None:
    """Encode, decode, report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--report", default="docs/small", help="the page's folder")
    parser.add_argument("--split", default="test", help="val while looking for a recipe")
    parser.add_argument("--every", type=int, default=10, help="frames from one to the next")
    given = parser.parse_args(argv)
    loaded = config.load("hallo", [f"scale={SHIPPED_SCALE}", "weights=zoo"])
    net, meta = load_net(loaded, STAGE)
    assert isinstance(net, Autoencoder)
    store = Store(Path(loaded.data.root), given.split, loaded.size, loaded.data.audio, cache_gb=0)
    decibels, blocks, pictures = [], [], []
    for i, clip in enumerate(store.clips):
        film = to_unit(store.frames(i, np.arange(0, clip.n_frames, given.every)))
        with torch.inference_mode():
            decoded = net.decode(net.encode(film))
        made = to_unit(to_uint8(decoded))
        decibels += (-10 * (made - film).square().mean((1, 2, 3)).log10()).tolist()
        blocks.append(blockiness(made, net.factor) / blockiness(film, net.factor))
        pictures.append((film[0], made[0]))
    folder, people = Path(given.report), len(store.clips)
    at = np.linspace(0, people - 1, SHOWN).round().astype(int)
    chosen = [pictures[i] for i in at]
    sheet([pair[k] for k in (0, 1) for pair in chosen], SHOWN, folder / "autoencoder.png")
    body = [
        ["PSNR, mean", f"{np.mean(decibels):.1f} dB"],
        ["PSNR, worst frame", f"{np.min(decibels):.1f} dB"],
        ["blockiness, mean", f"{np.mean(blocks):.2f}"],
        ["blockiness, worst clip", f"{np.max(blocks):.2f}"],
    ]
    lines = [
        "# The autoencoder of FD2Talk and Hallo at the small scale",
        "",
        f"{len(decibels)} frames of {people} {given.split} people; the shipped weights"
        f" ({meta['hash']}, {meta['dtype']}). Made by `python -m benchmarks.autoencoder`.",
        "",
        *table([["", ""], *body]),
        "",
        "![frames above, decoded below](autoencoder.png)",
        "",
    ]
    write_atomic(folder / "autoencoder.md", "\n".join(lines))
    print("\n".join(lines))


def blockiness(frames: Tensor, cell: int) -> float:
    """Mean difference across the borders of cells over that within them; (N, 3, H, W)."""
    across = (frames[..., 1:] - frames[..., :-1]).abs().mean((0, 1, 2))
    down = (frames[..., 1:, :] - frames[..., :-1, :]).abs().mean((0, 1, 3))
    border = torch.arange(1, frames.shape[-1]) % cell == 0
    return float(
        (across[border].mean() + down[border].mean())
        / (across[~border].mean() + down[~border].mean())
    )


if __name__ == "__main__":
    main()
