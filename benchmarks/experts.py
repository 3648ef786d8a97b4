"""Trains the experts of the synthetic domain and measures them on people they never saw.

    python -m benchmarks.experts [--data runs/learning/data]

The data set is made where it is absent (see ``thbench data synth``). Three nets are trained on its
training people from the renderer's own labels: ``face`` reads pose, mouth and lids, ``identity``
tells people apart, ``sync`` puts lips and audio into one space. Weights go where the package looks
for them, the figures to ``docs/scoring/experts.md``. About ten minutes on one core. The basis of
expressions, found from the landmarks alone, is a fourth file.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc
from tqdm import trange

from metrics.extractors.expression import SyntheticExpression
from metrics.extractors.syncnet import audio_windows
from metrics.extractors.synthetic import FOLDER, READS, FaceNet, shrink
from metrics.extractors.synthetic_sync import SyncExpert, mouths
from metrics.syncnet import sync
from thbench.core.files import write_atomic
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.face import morphable, morphable_fit
from thbench.data.media import audio, video
from thbench.data.synthetic.make import synthesize

SPLITS = {"train": 400, "val": 24, "test": 24}
SHIFTS = range(-8, 9)
REACH = 15  # frames to either side among which the audio of now is to be found


@dataclass(frozen=True)
class Footage:
    """A split in memory: frames (N, T, 3, 64, 64) uint8, mouths (N, T, 3, 32, 32) uint8,
    audio signals (N, T - 5, 13, 20), what was planted (N, T, reads).
    """

    frames: Tensor
    mouths: Tensor
    sounds: Tensor
    planted: Tensor

    def __len__(self) -> int:
        return len(self.frames)


def main(argv: Sequence[str] | None = None) -> None:
    """Make the data, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="runs/learning/data", help="a synthetic data set")
    parser.add_argument("--seed", type=int, default=1, help="of the data set, if it is made")
    parser.add_argument("--out", default=str(FOLDER), help="folder of the weights")
    parser.add_argument("--report", default="docs/scoring/experts.md")
    arguments = parser.parse_args(argv)
    data = Path(arguments.data)
    if not (data / "manifest.jsonl").is_file():
        synthesize(data, identities=sum(SPLITS.values()), splits=SPLITS, seed=arguments.seed)
    torch.manual_seed(0)
    train, test = (load(data, split) for split in ("train", "test"))
    out = Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    lines = ["# Experts of the synthetic domain", "", _INTRODUCTION, "", "| | |", "|---|---|"]
    experts: tuple[tuple[str, Callable[..., Any], Callable[..., dict[str, float]]], ...] = (
        ("face", fit_face, judge_face),
        ("identity", fit_identity, judge_identity),
        ("sync", fit_sync, judge_sync),
    )
    for name, fit, judge in experts:
        net = fit(train).eval()
        save_file({k: v.contiguous() for k, v in net.state_dict().items()},
                  out / f"{name}.safetensors")  # fmt: skip
        with torch.inference_mode():
            found = judge(net, test)
        lines += [f"| {name}: {what} | {value:.3f} |" for what, value in found.items()]
        print(name, {k: round(v, 3) for k, v in found.items()}, flush=True)
    model = morphable_fit.find(data, "train", identity=48, expression=SyntheticExpression.dim)
    morphable.write(model, out / SyntheticExpression.file)
    error = 100 * float(np.mean(morphable_fit.measure(model, data, "test")))
    lines.append(f"| expression: vertex error, % of the face's height | {error:.3f} |")
    write_atomic(Path(arguments.report), "\n".join(lines) + "\n")


_INTRODUCTION = (
    f"Figures on {SPLITS['test']} people whom training never saw;"
    " made by `python -m benchmarks.experts`."
)


def load(root: Path, split: str) -> Footage:
    """All clips of a split, cut to the shortest."""
    clips = [clip for clip in manifest.read(root) if clip.split == split]
    n = min(clip.n_frames for clip in clips)
    parts = [_load(root, clip, n) for clip in clips]
    return Footage(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _load(root: Path, clip: Clip, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    frames = video.read(root / clip.video, slice(0, n))
    with np.load(root / clip.track) as track:
        points = torch.from_numpy(track["landmarks"][:n].astype(np.float32))
    sounds = audio_windows(audio.fit_length(audio.load(root / clip.video), n), n - 5)
    with np.load(root / clip.extra["truth"]) as truth:
        values = [
            *truth["pose"][:n].T,
            truth["mouth"][:n],
            truth["closure"][:n],
            truth["scale"][:n],
        ]
    small = (255 * shrink(frames)).round().byte()
    return (
        small,
        (255 * mouths(frames, points)).round().byte(),
        sounds,
        torch.tensor(np.stack(values, 1), dtype=torch.float32),
    )


def _batches(
    footage: Footage, steps: int, size: int, title: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random clips and frames, (size,) each."""
    people, n = footage.frames.shape[:2]
    for _ in trange(steps, desc=title, disable=None):
        yield torch.randint(people, (size,)), torch.randint(n, (size,))


def _augment(images: Tensor) -> Tensor:
    """Shifted by up to two pixels, brightness and colours changed a little: ``images`` uint8."""
    x = images.float() / 255
    dx, dy = torch.randint(-2, 3, (2,)).tolist()
    x = torch.roll(x, (dy, dx), (2, 3))
    gain = 1 + 0.1 * torch.randn(len(x), 3, 1, 1)
    return (x * gain + 0.02 * torch.randn_like(x)).clamp(0, 1)


def _optimise(net: nn.Module, steps: int, rate: float = 2e-3) -> tuple[Any, Any]:
    optimiser = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.01)
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)


def fit_face(footage: Footage, steps: int = 1500) -> FaceNet:
    """A net that reads pose, mouth and lids."""
    net = FaceNet(64, len(READS))
    optimiser, schedule = _optimise(net, steps)
    mean, scale = footage.planted.mean((0, 1)), footage.planted.std((0, 1))
    for who, when in _batches(footage, steps, 64, "face"):
        made = net.read(net(_augment(footage.frames[who, when])))
        loss = F.smooth_l1_loss(made, (footage.planted[who, when] - mean) / scale)
        _step(loss, optimiser, schedule)
    return net


def judge_face(net: FaceNet, footage: Footage) -> dict[str, float]:
    """Correlations within clips of what is read with what was planted."""
    made = torch.stack([net.read(net(frames.float() / 255)) for frames in footage.frames])
    found = {}
    for i, name in enumerate(READS):
        pairs = zip(made[..., i].numpy(), footage.planted[..., i].numpy(), strict=True)
        found[f"r of {name}"] = float(
            np.mean([np.corrcoef(a, b)[0, 1] for a, b in pairs if b.std() > 1e-3])
        )
    return found


def fit_identity(footage: Footage, steps: int = 2000) -> FaceNet:
    """A net whose features of one person lie together: softmax over scaled cosines."""
    net = FaceNet(64, len(footage))
    optimiser, schedule = _optimise(net, steps)
    for who, when in _batches(footage, steps, 64, "identity"):
        features = F.normalize(net(_augment(footage.frames[who, when])), dim=1)
        cosines = features @ F.normalize(net.head.weight, dim=1).T
        margin = 0.2 * F.one_hot(who, len(footage))
        _step(F.cross_entropy(20 * (cosines - margin), who), optimiser, schedule)
    return net


def judge_identity(net: FaceNet, footage: Footage) -> dict[str, float]:
    """How well the cosine of two frames tells one person from two."""
    with torch.inference_mode():
        rows = torch.stack([F.normalize(net(f[::10].float() / 255), dim=1) for f in footage.frames])
    people, n, _ = rows.shape
    cosines = rows.flatten(0, 1) @ rows.flatten(0, 1).T
    whose = torch.arange(people).repeat_interleave(n)
    same = whose[:, None] == whose
    upper = torch.ones_like(same).triu(1)
    return {
        "area under the curve, same person or not": float(
            binary_auroc(cosines[upper].clamp(0, 1), same[upper].long())
        ),
        "cosine, same person": float(cosines[upper & same].mean()),
        "cosine, others": float(cosines[upper & ~same].mean()),
    }


def fit_sync(footage: Footage, steps: int = 1500, clips: int = 4) -> SyncExpert:
    """Two towers; the audio of now is to be nearest among those of ``REACH`` frames around."""
    net = SyncExpert()
    optimiser, schedule = _optimise(net, steps)
    for _ in trange(steps, desc="sync", disable=None):
        losses = []
        for who in torch.randint(len(footage), (clips,)).tolist():
            lips = net.lips(_augment(footage.mouths[who]))[: len(footage.sounds[who])]
            sound = net.sound(footage.sounds[who])
            apart = torch.arange(len(sound))[:, None] - torch.arange(len(sound))
            logits = (10 * lips @ sound.T).masked_fill(apart.abs() > REACH, -torch.inf)
            losses.append(F.cross_entropy(logits, torch.arange(len(sound))))
        _step(torch.stack(losses).mean(), optimiser, schedule)
    return net


def judge_sync(net: SyncExpert, footage: Footage) -> dict[str, float]:
    """Share of clips whose audio, shifted by k frames, is read as shifted by k."""
    right: list[bool] = []
    clean: list[float] = []
    for seen, sounds in zip(footage.mouths, footage.sounds, strict=True):
        lips, sound = net.lips(seen.float() / 255)[: len(sounds)], net.sound(sounds)
        for k in SHIFTS:
            a, b = (lips[: len(lips) - k], sound[k:]) if k >= 0 else (lips[-k:], sound[:k])
            right.append(round(sync(a, b, valid_only=True).offset) == k)
        clean.append(sync(lips, sound, valid_only=True).confidence)
    return {"offsets of -8 to 8 frames read right": float(np.mean(right)),
            "confidence of true pairs": float(np.mean(clean))}  # fmt: skip


def _step(loss: Tensor, optimiser: Any, schedule: Any) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    schedule.step()


if __name__ == "__main__":
    main()
