"""Scanning a raw video: where frames are damaged, where shots begin, where faces are."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import cv2
import numpy as np
from scenedetect import AdaptiveDetector, FrameTimecode
from torch import Tensor

from thbench.core.errors import UserError
from thbench.core.types import FPS
from thbench.data.face.crop import LOCATE_EVERY, Face, FaceLocator, thumbnail
from thbench.data.media.video import Chunk

THOROUGH_EVERY = 4  # detections between two that search for far faces beside near ones
SHOT_SIZE = 144  # shorter side, in pixels, of the frames that are searched for cuts
# Content value of PySceneDetect from which a frame may be the first of a shot, low because two
# people before one background differ little; what a moving camera adds is taken out by ALIKE.
LEAST_CHANGE = 8.0
# Correlation from which two frames count as showing the same. Faces in successive frames
# of 56 VoxCeleb2 clips, where these change most: over .75 in 98% of 187; of two clips: below in 98%
# of 150.
ALIKE = 0.75
EVERYWHERE = np.array([0.0, 0.0, 1.0, 1.0])


@dataclass
class Scan:
    """The result of scanning a video, frame by frame at 25 fps.

    Attributes:
        height, width: of the frames, in pixels.
        damaged: (T,) bool; the frame is damaged, or replaces a lost one.
        away: (T,) float32, seconds between a frame's time and that of the source frame it shows.
        shots: the first frames of all shots but the first.
        detections: indices of the frames that were searched, each with its faces, largest first.
        error: why the video cannot be read beyond the last frame; "" where it ends there.
        interval: usual seconds between two frames of the file.
    """

    height: int
    width: int
    damaged: np.ndarray
    away: np.ndarray
    shots: list[int] = field(default_factory=list)
    detections: list[tuple[int, list[Face]]] = field(default_factory=list)
    error: str = ""
    interval: float = 1 / FPS

    def __len__(self) -> int:
        return len(self.damaged)


def scan(chunks: Iterable[Chunk], faces: bool = True, follow_all: bool = False) -> Scan:
    """Scan a video once.

    Args:
        chunks: of all its frames, as ``video.chunks`` gives them.
        faces: detect faces; else cuts alone.
        follow_all: detect faces in every frame while there are several.

    Raises:
        UserError: no frame can be read.
    """
    flags: list[tuple[np.ndarray, np.ndarray]] = []
    seen = Scan(0, 0, np.zeros(0, bool), np.zeros(0, np.float32))
    with FaceLocator() as locate:
        finder = ShotFinder(locate)
        t = 0
        for chunk in _until_error(chunks, seen):
            flags.append((chunk.damaged, chunk.away))
            seen.height, seen.width = chunk.frames.shape[-2:]
            for frame in chunk.frames:
                seen.shots += finder(frame)
                several = follow_all and bool(seen.detections) and len(seen.detections[-1][1]) > 1
                if faces and (several or t % LOCATE_EVERY == 0):
                    thorough = t % (LOCATE_EVERY * THOROUGH_EVERY) == 0
                    seen.detections.append((t, locate.faces(frame, thorough)))
                t += 1
        seen.shots += finder.finish()
    if not flags:
        raise UserError(seen.error or "The video holds no frame that can be decoded.")
    seen.damaged, seen.away = (np.concatenate(column) for column in zip(*flags, strict=True))
    return seen


def _until_error(chunks: Iterable[Chunk], seen: Scan) -> Iterator[Chunk]:
    try:
        yield from chunks
    except UserError as error:
        seen.error = str(error)


class ShotFinder:
    """Finds hard cuts in a stream of frames.

    PySceneDetect's adaptive detector proposes them by the change of colours. A proposal is dropped
    where the largest face, or the whole frame where a face is missing, looks the same on both
    sides: moving and zooming cameras change as many colours as cuts do.
    """

    def __init__(self, locate: FaceLocator) -> None:
        self._locate = locate
        self._detector = AdaptiveDetector(min_scene_len=1, min_content_val=LEAST_CHANGE)
        self._delay = self._detector.window_width
        self._recent: deque[Tensor] = deque(maxlen=self._delay + 2)
        self._t = 0

    def __call__(self, frame: Tensor) -> list[int]:
        """Add a frame, uint8 (3, H, W); returns the first frames of shots that are now known."""
        # The detector compares with frames before and after: repeat the first and last ones.
        for _ in range(self._delay if not self._recent else 0):
            self._feed(frame)
        return self._feed(frame)

    def finish(self) -> list[int]:
        """The first frames of shots that are known only at the end of the video."""
        if not self._recent:
            return []
        last = self._recent[-1]
        return [shot for _ in range(self._delay) for shot in self._feed(last)]

    def _feed(self, frame: Tensor) -> list[int]:
        self._recent.append(frame)
        found = self._detector.process_frame(FrameTimecode(self._t, float(FPS)), _small(frame))
        self._t += 1
        # The frames shown before the first one are not of the video.
        return [code.frame_num - self._delay for code in found if self._is_cut()]

    def _is_cut(self) -> bool:
        before, after = self._recent[0], self._recent[1]
        faces = [self._locate.faces(frame, thorough=True) for frame in (before, after)]
        if all(faces):
            thumbnails = [found[0].thumbnail for found in faces]
        else:
            thumbnails = [thumbnail(_small(frame), EVERYWHERE) for frame in (before, after)]
        return correlation(*thumbnails) < ALIKE


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of all values; 0 where one of them is constant."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 1e-9 else 0.0


def _small(frame: Tensor) -> np.ndarray:
    """A small frame (H, W, 3) in OpenCV's order of colours."""
    image = frame.permute(1, 2, 0).numpy()
    share = SHOT_SIZE / min(image.shape[:2])
    if share < 1:
        size = tuple(max(1, round(side * share)) for side in image.shape[1::-1])
        # Twice: whole steps are quick, and leave little to the slow one.
        step = max(1, math.floor(0.5 / share))
        image = cv2.resize(image[::step, ::step], size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1])
