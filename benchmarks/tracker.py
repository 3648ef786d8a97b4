"""The face tracker against MediaPipe's own: where they differ, and what each costs.

MediaPipe 0.10.21 needs Python 3.11 or 3.12 and numpy 1, so this runs in an environment of its own:

    python3.12 -m venv /tmp/with-mediapipe
    /tmp/with-mediapipe/bin/pip install -e . mediapipe==0.10.21
    /tmp/with-mediapipe/bin/python -m benchmarks.tracker FOLDER_OF_CLIPS

Of each clip the middle square is seen, at 256 pixels, by MediaPipe's Face Mesh and

- by ours from MediaPipe's points of the frame before: what the port itself changes;
- by ``thbench.data.face.landmarks.track``, on its own from the first frame to the last;
- by MediaPipe once more, one pixel of the first frame changed by one level. It cuts the face out on
  a grid of 1/32 pixel, so that the least change moves the points a little, these the next cut, and
  so on: two runs do not come together again. No more can be asked of the one before.

Both detectors see every tenth frame whole. Clips whose frames with a face differ are listed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from thbench.core.errors import UserError
from thbench.data.face import landmarks
from thbench.data.face.tracker.detection import FaceDetector
from thbench.data.face.tracker.mesh import Mesh, following
from thbench.data.media import video

SIZE = 256
ALLOWED = 0.5  # pixels at SIZE
Points = list[np.ndarray | None]
SUFFIXES = {".mp4", ".mpg", ".mov", ".webm"}


class TheirMesh:
    """MediaPipe's Face Mesh, looking afresh where it loses the face: as ``landmarks.FaceMesh``."""

    def __init__(self, moving: bool = True) -> None:
        self._solutions = [_solution(moving), *([_solution(False)] if moving else [])]
        self.kept: list[bool] = []  # of each image so far: found by what follows

    def __call__(self, picture: np.ndarray) -> np.ndarray | None:
        for k, solution in enumerate(self._solutions):
            if faces := solution.process(picture).multi_face_landmarks:
                self.kept.append(k == 0)
                return np.array([(p.x, p.y, p.z) for p in faces[0].landmark], np.float32)
        self.kept.append(False)
        return None

    def close(self) -> None:
        """Give back what MediaPipe holds."""
        for solution in self._solutions:
            solution.close()


def _solution(moving: bool) -> Any:
    from mediapipe.python.solutions.face_mesh import FaceMesh

    return FaceMesh(
        static_image_mode=not moving,
        max_num_faces=1,
        refine_landmarks=True,
        min_detection_confidence=0.5,
        min_tracking_confidence=0.5,
    )


class TheirDetector:
    """MediaPipe's detector: boxes (n, 4) as fractions and scores, the surest first."""

    def __init__(self, far: bool) -> None:
        from mediapipe.python.solutions.face_detection import FaceDetection

        self._solution = FaceDetection(min_detection_confidence=0.5, model_selection=int(far))

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self._solution.process(picture).detections or []
        boxes = [f.location_data.relative_bounding_box for f in found]
        corners = [(b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height) for b in boxes]
        scores = np.array([f.score[0] for f in found])
        return np.array(corners).reshape(-1, 4), scores


@dataclass
class Agreement:
    """How far points and boxes were apart so far."""

    frames: int = 0
    differing: dict[str, str] = field(default_factory=dict)
    points: dict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    boxes: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))

    def add(self, how: str, clip: str, some: Points, theirs: Points) -> None:
        """Two ways of seeing a clip's frames."""
        alone = [k for k, pair in enumerate(zip(some, theirs, strict=True)) if _one(*pair)]
        if alone:
            frames = ", ".join(map(str, alone[:8]))
            self.differing[f"{clip}, {how}"] = f"{len(alone)} of {len(theirs)} frames: {frames}"
        for one, other in zip(some, theirs, strict=True):
            if one is not None and other is not None:
                self.points[how].append(np.linalg.norm((one - other)[:, :2] * SIZE, axis=-1))

    def print(self) -> None:
        """Print all differences."""
        print(f"{self.frames} frames")
        for how, frames in self.points.items():
            points = np.stack(frames)
            within = (points.max(1) <= ALLOWED).mean()
            print(
                f"{how}: {len(points)} frames with a face for both; points apart"
                f" {np.median(points):.4f} px (median), {np.quantile(points, 0.99):.3f} (99%),"
                f" {points.max():.2f} (largest); within {ALLOWED} px:"
                f" {(points <= ALLOWED).mean():.3%} of points, all 478 in {within:.2%} of frames"
            )
        for kind, apart in self.boxes.items():
            print(
                f"{kind} detector: as many faces in {np.mean(self.counts[kind]):.2%} of"
                f" {len(self.counts[kind])} frames; corners apart {np.median(apart):.4f} px"
                f" (median), {max(apart):.3f} (largest)"
            )
        print(f"{len(self.differing)} comparisons differ in which frames have a face")
        for clip, differing in self.differing.items():
            print(f"  {clip}: {differing}")


def _one(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return (a is None) != (b is None)


def square(frames: Tensor) -> Tensor:
    """The middle square of uint8 (T, 3, H, W) at ``SIZE`` pixels."""
    height, width = frames.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = frames[..., top : top + side, left : left + side]
    return F.interpolate(middle, (SIZE, SIZE), mode="bilinear", antialias=True)


def pictures(frames: Tensor) -> np.ndarray:
    """Frames (T, 3, H, W) as an array (T, H, W, 3)."""
    return frames.permute(0, 2, 3, 1).contiguous().numpy()


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep off the terminal what MediaPipe writes to it."""
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)


def compare(paths: list[Path], root: Path, most: int) -> Agreement:
    """Track each clip both ways, up to a number of frames."""
    agreement = Agreement()
    ours = {"near": FaceDetector("near"), "far": FaceDetector("far")}
    with silent():
        theirs = {kind: TheirDetector(kind == "far") for kind in ours}
    mesh = Mesh()
    for path in tqdm(paths, unit="clip", disable=None):
        try:
            frames = video.read(path, slice(0, most))
        except UserError as error:
            tqdm.write(str(error))
            continue
        clip, shrunk = str(path.relative_to(root)), square(frames)
        seen = pictures(shrunk)
        agreement.frames += len(seen)
        with silent():
            their, kept = follow(seen)
            agreement.add("one frame on", clip, *one_frame_on(mesh, seen, their, kept))
            agreement.add("on its own", clip, tracked(shrunk), their)
            seen[0, SIZE // 2, SIZE // 2, 0] ^= 1
            agreement.add("MediaPipe twice", clip, follow(seen)[0], their)
            for picture in pictures(frames[::10]):
                for kind in ours:
                    _detect(agreement, kind, picture, ours[kind], theirs[kind])
    return agreement


def follow(seen: np.ndarray) -> tuple[Points, list[bool]]:
    """What MediaPipe finds in a clip's frames (T, H, W, 3), and where it did not have to look."""
    with contextlib.closing(TheirMesh()) as mesh:
        return [mesh(picture) for picture in seen], mesh.kept


def tracked(frames: Tensor) -> Points:
    """What we find."""
    found = landmarks.track(frames)
    return [p if ok else None for p, ok in zip(found.landmarks, found.valid, strict=True)]


def one_frame_on(
    mesh: Mesh, seen: np.ndarray, their: Points, kept: list[bool]
) -> tuple[Points, Points]:
    """Ours in the frames in which MediaPipe followed the face, and MediaPipe's there."""
    after = [k for k in range(1, len(seen)) if kept[k - 1] and kept[k]]
    regions = [following(their[k - 1], seen[k]) for k in after]  # type: ignore[arg-type]
    return mesh([seen[k] for k in after], regions), [their[k] for k in after]


def _detect(
    agreement: Agreement, kind: str, picture: np.ndarray, ours: FaceDetector, theirs: TheirDetector
) -> None:
    boxes, _ = theirs(picture)
    found = ours(picture)
    agreement.counts[kind].append(len(found) == len(boxes))
    if len(found) == len(boxes) and len(found):
        size = np.tile(picture.shape[1::-1], 2)
        apart = np.abs(np.stack([face.box for face in found]) - boxes) * size
        agreement.boxes[kind].append(float(apart.max()))


def speed(path: Path) -> None:
    """What an image costs on one thread; both take turns, so that a busy machine is fair."""
    seen = pictures(square(video.read(path, slice(0, 64))))
    with silent():
        theirs, theirs_afresh = TheirMesh(), TheirMesh(moving=False)
    ours, ours_afresh = landmarks.FaceMesh(), landmarks.FaceMesh(moving=False)
    pairs: dict[str, tuple[Callable[..., object], Callable[..., object]]] = {
        "following": (theirs, ours),
        "afresh": (theirs_afresh, ours_afresh),
    }
    for name, (their, our) in pairs.items():
        costs: list[list[float]] = [[], []]
        with silent():
            for picture in seen:
                for run, cost in zip((their, our), costs, strict=True):
                    before = time.perf_counter()
                    run(picture)
                    cost.append(1000 * (time.perf_counter() - before))
        a, b = (np.median(cost[4:]) for cost in costs)
        print(f"{name}: MediaPipe {a:.1f} ms, ours {b:.1f} ms an image ({b / a:.2f} times)")
    costs = [[]]
    for start in range(0, 64, 16):
        before = time.perf_counter()
        ours_afresh.batch(list(seen[start : start + 16]))
        costs[0].append(1000 * (time.perf_counter() - before) / 16)
    print(f"afresh, 16 at once: ours {np.median(costs[0]):.1f} ms an image")


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, help="a folder, with folders in it or not")
    parser.add_argument("--limit", type=int, help="so many clips, evenly from all")
    parser.add_argument("--frames", type=int, default=100, help="at most of each clip")
    parser.add_argument("--speed", action="store_true", help="only that")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    paths = sorted(p for p in args.clips.rglob("*") if p.suffix in SUFFIXES)
    if args.limit:
        paths = paths[:: max(1, len(paths) // args.limit)][: args.limit]
    if not args.speed:
        compare(paths, args.clips, args.frames).print()
    speed(paths[0])


if __name__ == "__main__":
    main()
