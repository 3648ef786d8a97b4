"""Writes tests/data/tracker.npz: what MediaPipe finds in the pictures of ``test_tracker.py``.

    python -m tests.data.record_tracker

It needs mediapipe 0.10.21, as ``benchmarks.tracker`` says. The faces are drawn, so nobody's are
in the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.tracker import TheirDetector, TheirMesh
from tests.data.test_tracker import FILMED, RECORDED, filmed, stills


def main() -> None:
    found: dict[str, np.ndarray] = {}
    for kind in ("near", "far"):
        detector = TheirDetector(kind == "far")
        for name, picture in stills().items():
            found[f"{kind}-boxes-{name}"], found[f"{kind}-scores-{name}"] = detector(picture)
    afresh, following = TheirMesh(moving=False), TheirMesh()
    for name, picture in stills().items():
        found[f"mesh-{name}"] = _points(afresh(picture))
    for k, picture in enumerate(filmed().permute(0, 2, 3, 1).contiguous().numpy()):
        points = _points(following(picture))
        found[f"valid-{k}"] = np.array(len(points) > 0)
        if k in FILMED:
            found[f"track-{k}"] = points
    found["kept"] = np.array(following.kept)
    small = {name: v.astype(np.float32) if v.dtype.kind == "f" else v for name, v in found.items()}
    np.savez_compressed(RECORDED, **small)  # type: ignore[arg-type]
    print(f"{RECORDED}: {Path(RECORDED).stat().st_size} bytes")


def _points(found: np.ndarray | None) -> np.ndarray:
    return np.zeros((0, 3)) if found is None else found


if __name__ == "__main__":
    main()
