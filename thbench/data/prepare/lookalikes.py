"""Whether people of different names in different splits look like the same person.

A few frames of a few clips of each person give one embedding, by the network trained for such
images: ArcFace for recordings, the identity expert for drawn faces. Neither is valid for the
other's.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from metrics.extractors.base import Extractor
from metrics.weights import WeightsMissing, WeightsUnreadable
from thbench.core.errors import UserError
from thbench.core.types import N_LANDMARKS, Clip
from thbench.data import manifest
from thbench.data.media import video

FRAMES = 8  # of a clip
CLIPS = 4  # of a person in a split
SHOWN = 10
ALIKE = {"synthetic-identity": 0.85, "arcface": 0.5}
"""Cosines from which two embeddings count as one person's.

Measured for the expert on people whom it never saw: of 60, two halves of one person's clips came to
.76 to .99 (97% above .85), two single clips to .61 to .99 (88%); 60,780 pairs of people to .82 at
most. For ArcFace it was not measured, for want of its weights; verification uses a lower threshold,
but compares one pair and not thousands.
"""

Person = tuple[str, str]
"""An identity and one of its splits."""


@dataclass(frozen=True)
class Pair:
    """Two identities in different splits, and the cosine of their embeddings."""

    one: Person
    other: Person
    cosine: float

    def __str__(self) -> str:
        (a, in_a), (b, in_b) = self.one, self.other
        return f"{a} ({in_a}) and {b} ({in_b}) look like the same person: cosine {self.cosine:.2f}"


def warnings(root: Path, clips: Sequence[Clip], progress: bool = True) -> list[str]:
    """Lines on people that look alike across splits, the most alike first.

    Clips that cannot be read are skipped; ``check`` names them.

    Args:
        root: the prepared data set.
        clips: its rows.
        progress: show a bar.

    Returns:
        Nothing where nobody looks alike, or nobody is to be compared; one line that says why
        where the network for such faces is missing.
    """
    if len({clip.split for clip in clips}) < 2 or len({clip.identity for clip in clips}) < 2:
        return []
    try:
        extractor = _extractor(manifest.is_synthetic(root))
    except (WeightsMissing, WeightsUnreadable) as error:
        return [f"faces of different identities were not compared, for want of ArcFace: {error}."]
    pairs = alike(_embeddings(root, clips, extractor, progress), ALIKE[extractor.name])
    if not pairs:
        return []
    count = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    lines = [
        f"{count} of identities in different splits look like the same person ({extractor.name}):"
        " if so, prepare again with another --identity, or rename one."
    ]
    lines += [f"{pair}." for pair in pairs[:SHOWN]]
    if len(pairs) > SHOWN:
        lines.append(f"and {len(pairs) - SHOWN} more such pairs.")
    return lines


def alike(people: Mapping[Person, Tensor], threshold: float) -> list[Pair]:
    """Pairs of different identities in different splits at or above a cosine, highest first.

    Args:
        people: embeddings of length 1 by identity and split.
        threshold: of the cosine.

    Returns:
        Each pair of identities once, with the splits in which it is most alike.
    """
    known = sorted(people)
    if not known:
        return []
    rows = torch.stack([people[person] for person in known])
    best: dict[tuple[str, str], Pair] = {}
    for k, one in enumerate(known):
        cosines = rows[k + 1 :] @ rows[k]
        for i in (cosines >= threshold).nonzero()[:, 0].tolist():
            other, cosine = known[k + 1 + i], float(cosines[i])
            if one[0] == other[0] or one[1] == other[1]:
                continue
            key = (one[0], other[0])
            if key not in best or best[key].cosine < cosine:
                best[key] = Pair(one, other, cosine)
    return sorted(best.values(), key=lambda pair: -pair.cosine)


def _extractor(synthetic: bool) -> Extractor:
    """The network for such faces.

    Raises:
        WeightsMissing, WeightsUnreadable: it cannot be had.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if synthetic:
        from metrics.extractors.synthetic import SyntheticIdentity

        return SyntheticIdentity(device)
    from metrics.extractors.arcface import ArcFace

    return ArcFace(device)


def _embeddings(
    root: Path, clips: Sequence[Clip], extractor: Extractor, progress: bool
) -> dict[Person, Tensor]:
    """The mean embedding of each person in each split, of length 1."""
    groups: dict[Person, list[Clip]] = defaultdict(list)
    for clip in clips:
        groups[clip.identity, clip.split].append(clip)
    chosen = [(person, clip) for person, all_ in groups.items() for clip in _choose_clips(all_)]
    found: dict[Person, list[Tensor]] = defaultdict(list)
    bar = tqdm(chosen, "faces", unit="clip", disable=None if progress else True)
    for person, clip in bar:
        if (seen := _embed_clip(root, clip, extractor)) is not None:
            found[person].append(seen)
    means = {person: torch.cat(rows).mean(0) for person, rows in found.items()}
    return {person: F.normalize(mean, dim=0) for person, mean in means.items()}


def _choose_clips(clips: Sequence[Clip]) -> list[Clip]:
    """At most ``CLIPS`` of a person's clips, evenly from first to last."""
    count = min(CLIPS, len(clips))
    return [clips[k * len(clips) // count] for k in range(count)]


def _embed_clip(root: Path, clip: Clip, extractor: Extractor) -> Tensor | None:
    """Embeddings (n, d) of frames in which the face was found; None where nothing can be read."""
    try:
        with np.load(root / clip.track) as npz:
            landmarks, valid = npz["landmarks"], npz["valid"].astype(bool)
        if landmarks.shape != (len(valid), N_LANDMARKS, 3):
            return None
        seen = valid.nonzero()[0]
        at = np.unique(seen[np.linspace(0, len(seen) - 1, FRAMES).round().astype(int)])
        frames = video.read(root / clip.video, at.tolist())
    except (UserError, OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile):
        return None
    given = {
        "landmarks": torch.from_numpy(landmarks[at].astype(np.float32)),
        "valid": torch.ones(len(at), dtype=torch.bool),
    }
    return extractor.extract(frames, given)
