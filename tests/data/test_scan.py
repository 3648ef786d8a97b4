"""Where a first pass finds cuts and faces."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.recordings import talk
from thbench.core.errors import UserError
from thbench.data.face.crop import LOCATE_EVERY, FaceLocator, thumbnail
from thbench.data.media.video import Chunk
from thbench.data.prepare.scan import ShotFinder, correlation, scan

N = 24


@pytest.fixture(scope="module")
def locate() -> Iterator[FaceLocator]:
    with FaceLocator() as found:
        yield found


def person(who: int, n: int = N) -> Tensor:
    return talk(50, 128, who).frames[:n]


def shots(frames: Tensor, locate: FaceLocator) -> list[int]:
    finder = ShotFinder(locate)
    return [shot for frame in frames for shot in finder(frame)] + finder.finish()


def chunks(frames: Tensor, size: int = 10) -> Iterator[Chunk]:
    for part in frames.split(size):
        yield Chunk(part, np.zeros(len(part), bool), np.zeros(len(part), np.float32))


def test_hard_cuts_are_found_at_their_frame(locate: FaceLocator) -> None:
    assert shots(torch.cat([person(1), person(3)]), locate) == [N]
    card = torch.full((10, 3, 128, 128), 40, dtype=torch.uint8)
    card[:, :, 50:70, 20:100] = 230
    assert shots(torch.cat([card, person(1), card]), locate) == [10, 10 + N]


@pytest.mark.parametrize("at", [1, 2, N - 2, N - 1])
def test_cuts_near_the_ends_are_found(at: int, locate: FaceLocator) -> None:
    frames = torch.cat([person(1, at), person(3, N - at)])
    assert shots(frames, locate) == [at]


def test_what_a_camera_does_to_one_face_is_no_cut(locate: FaceLocator) -> None:
    """A flash, a jolt and a zoom from one frame to the next change as much as a cut does."""
    frames = person(1).clone()
    frames[8] = frames[8].float().mul(1.3).add(40).clamp(0, 255).byte()
    frames[14:] = frames[14:].roll((9, -7), (2, 3))
    zoomed = frames[20:, :, 12:116, 12:116].float()
    frames[20:] = torch.nn.functional.interpolate(zoomed, (128, 128), mode="bilinear").byte()
    assert shots(frames, locate) == []


def test_faces_are_looked_for_on_a_beat_and_all_of_them(locate: FaceLocator) -> None:
    both = torch.cat([person(1), person(3)], 3)
    seen = scan(chunks(both))
    assert [t for t, _ in seen.detections] == list(range(0, N, LOCATE_EVERY))
    assert all(len(faces) == 2 for _, faces in seen.detections)
    assert (seen.height, seen.width, len(seen), seen.shots) == (128, 256, N, [])
    assert [t for t, _ in scan(chunks(both), follow_all=True).detections] == list(range(N))
    alone = scan(chunks(person(1)), follow_all=True)
    assert [t for t, _ in alone.detections] == list(range(0, N, LOCATE_EVERY))
    assert scan(chunks(both), faces=False).detections == []


def test_what_can_be_read_is_seen_and_the_end_explained() -> None:
    def cut_short() -> Iterator[Chunk]:
        yield from chunks(person(1, 10))
        raise UserError("the file is cut short")

    seen = scan(cut_short(), faces=False)
    assert (len(seen), seen.error) == (10, "the file is cut short")

    def nothing() -> Iterator[Chunk]:
        raise UserError("no frame")
        yield

    with pytest.raises(UserError, match="no frame"):
        scan(nothing(), faces=False)


def test_thumbnails_are_of_the_box() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[16:48, 16:48] = np.arange(32, dtype=np.uint8)[:, None, None] * 8
    found = thumbnail(picture, np.array([0.25, 0.25, 0.75, 0.75]))
    assert np.abs(found - np.arange(32)[:, None] * 8.0).max() <= 8
    assert correlation(found, found) == pytest.approx(1)
    assert correlation(found, 255 - found) == pytest.approx(-1)
    assert correlation(found, np.ones((32, 32))) == 0
