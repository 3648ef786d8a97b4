"""Requests, from the clips of a prepared split or from a user's own files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from thbench.config import DataConfig
from thbench.core.console import rank_zero_print
from thbench.core.errors import UserError
from thbench.core.seeding import derive_seed
from thbench.core.types import SAMPLES_PER_FRAME, Request, Track
from thbench.data.embedding import encoders
from thbench.data.face import landmarks
from thbench.data.face.crop import LOCATE_EVERY, MESH_SIZE, FaceLocator, choose_square, crop_square
from thbench.data.media import audio, video
from thbench.data.store import Store

NEARLY_SILENT = -60.0
"""Decibels below full scale; speech is 20 to 30 dB below."""


class SplitRequests(Dataset[Request]):
    """A request for each clip of a split and each seed, in order of id, built on access.

    Silent clips are left out, with a line on how many they are.

    Args:
        data: a prepared data set.
        split: ``train``, ``val`` or ``test``.
        size: pixels of the portraits.
        seeds: each clip is requested once with each.
        limit: only the first so many clips.
        frames: at most so many frames of each clip.
        source_frame: the portrait is the ``first`` frame with a face, or a ``random`` one.
        follow: give the clip's own pose and eyes, so that the video can be compared with it.
        others_audio: give the audio embedding of the split's next clip (of its first after the
            last), cut or repeated from its start to the clip's length. Its waveform stays its own.

    Raises:
        UserError: the split has no clips with sound, or no other one whose audio there is, or a
            limit is not positive.
    """

    def __init__(
        self,
        data: DataConfig,
        split: str,
        size: int,
        *,
        seeds: tuple[int, ...] = (0,),
        limit: int | None = None,
        frames: int | None = None,
        source_frame: str = "first",
        follow: bool = False,
        others_audio: bool = False,
    ) -> None:
        for key, value in (("limit", limit), ("frames", frames)):
            if value is not None and value < 1:
                raise UserError(f"eval.{key} must be a positive number or null, not {value}.")
        self.store = Store.of(data, split, size, cache_gb=0)
        self.frames, self.source_frame, self.follow = frames, source_frame, follow
        self.others_audio = others_audio
        self.heard = np.flatnonzero(~self.store.silent).tolist()
        if not self.store.clips:
            raise UserError(f"{data.root} has no clips in its split '{split}'.")
        if silent := len(self.store.clips) - len(self.heard):
            what = (
                f"{silent} of {len(self.store.clips)} clips in the split '{split}' of {data.root}"
            )
            if not self.heard:
                raise UserError(f"{what} have no sound to generate from: name a data set with it.")
            rank_zero_print(f"{what} are left out: they have no sound to generate from")
        chosen = self.heard[:limit]
        if others_audio and len(self.heard) < 2:
            raise UserError(
                f"{data.root} has one clip in its split '{split}', and no other's audio."
            )
        self.wanted = [(i, seed) for seed in seeds for i in chosen]
        self.store.prepare()

    def __len__(self) -> int:
        return len(self.wanted)

    @property
    def longest(self) -> int:
        """Frames of the longest video requested."""
        longest = max(self.store.clips[i].n_frames for i, _ in self.wanted)
        return min(longest, self.frames or longest)

    def name(self, index: int) -> tuple[str, int]:
        """Clip id and seed of a request, without building it."""
        i, seed = self.wanted[index]
        return self.store.clips[i].id, seed

    def __getitem__(self, index: int) -> Request:
        i, seed = self.wanted[index]
        clip = self.store.clips[i]
        n = min(clip.n_frames, self.frames or clip.n_frames)
        everything = np.arange(n)
        track = self.store.track(i, everything)
        at = self._source(i, seed)
        portrait = self.store.track(i, np.array([at]))
        sound = audio.load(self.store.root / clip.video)
        return Request(
            id=clip.id,
            source=self.store.frames(i, np.array([at]))[0],
            audio=torch.from_numpy(self._audio(i, everything)),
            waveform=torch.from_numpy(audio.fit_length(sound, n)),
            source_pose=torch.from_numpy(portrait.pose[0]),
            source_eyes=torch.from_numpy(portrait.eyes[0]),
            source_landmarks=torch.from_numpy(portrait.landmarks[0]),
            pose=torch.from_numpy(track.pose) if self.follow else None,
            eyes=torch.from_numpy(track.eyes) if self.follow else None,
            seed=seed,
        )

    def _audio(self, i: int, frames: np.ndarray) -> np.ndarray:
        """The audio embedding (n, D) that clip ``i`` is generated from, at frames (n,)."""
        if not self.others_audio:
            return self.store.audio_features(i, frames)
        other = self.heard[(self.heard.index(i) + 1) % len(self.heard)]
        return self.store.audio_features(other, frames % self.store.clips[other].n_frames)

    def _source(self, i: int, seed: int) -> int:
        """The portrait's frame: one with a face, where the clip has any."""
        seen = np.flatnonzero(self.store.valid(i))
        if not len(seen):
            raise UserError(f"Clip '{self.store.clips[i].id}' shows no face: prepare it anew.")
        if self.source_frame == "first":
            return self.store.portrait(i)
        return int(np.random.default_rng(derive_seed(seed, self.store.clips[i].id)).choice(seen))


def from_files(
    image: Path,
    sound: Path,
    encoder: str,
    size: int,
    *,
    motion: Path | None = None,
    seed: int = 0,
) -> Request:
    """A request of a user's own files.

    Args:
        image: any picture of one face; it is cropped as prepared clips are.
        sound: anything with sound, at any rate; its length is the video's.
        encoder: the audio encoder that the strategy was trained with.
        size: pixels of the portrait.
        motion: a video whose head motion and blinks are carried over, relative to its first frame.
            It must be at least as long as the sound.
        seed: of the noise.

    Raises:
        UserError: no file, no face, no sound, or a motion that is too short.
    """
    source, portrait = read_portrait(image, size)
    waveform = read_speech(sound)
    n = max(1, round(len(waveform) / SAMPLES_PER_FRAME))
    waveform = audio.fit_length(waveform, n)
    request = Request(
        id=sound.stem,
        source=source,
        audio=torch.tensor(encoders.encoder(encoder)(waveform, n)),
        waveform=torch.from_numpy(waveform),
        source_pose=torch.from_numpy(portrait.pose[0]),
        source_eyes=torch.from_numpy(portrait.eyes[0]),
        source_landmarks=torch.from_numpy(portrait.landmarks[0]),
        seed=seed,
    )
    if motion is not None:
        request.pose, request.eyes = transfer_motion(motion, portrait, n)
    return request


def read_speech(path: Path) -> np.ndarray:
    """The waveform (S,) of a user's audio file; prints what was repaired, and if it is silent.

    Raises:
        UserError: there is no sound in it.
    """
    found = audio.read(path)
    for note in (*found.notes, *found.gap_notes()):
        rank_zero_print(f"{path}: {note}.")
    if (decibels := audio.level(found.waveform)) < NEARLY_SILENT:
        rank_zero_print(
            f"warning: {path} is nearly silent ({decibels:.0f} dB): the mouth has nothing to say."
        )
    return found.waveform


def read_portrait(image: Path, size: int) -> tuple[Tensor, Track]:
    """A portrait cropped around its face, uint8 (3, size, size), and its track of one frame.

    Raises:
        UserError: no image, or no face in it.
    """
    picture = video.read_image(image)[None]
    with FaceLocator() as locate:
        faces = locate.faces(picture[0], thorough=True)
    square = choose_square(faces[0].box[None], *picture.shape[-2:]) if faces else None
    if len(faces) > 1:
        rank_zero_print(f"{image}: {len(faces)} faces, the largest is taken.")
    if square is None:
        raise UserError(f"No face was found in {image}: take an image of one face from the front.")
    seen = landmarks.track(crop_square(picture, square, max(size, MESH_SIZE)))
    if not seen.valid[0]:
        raise UserError(f"The face in {image} cannot be measured: take an image from the front.")
    return crop_square(picture, square, size)[0], seen


def transfer_motion(path: Path, portrait: Track, n: int) -> tuple[Tensor, Tensor]:
    """The motion of a video's face, moved to a portrait: pose (n, 6) and eyes (n, 2).

    Changes since the first frame are added to the portrait's own pose and eyes, so another face's
    position, size and shape do not come along. The video is read twice and never held whole.

    Raises:
        UserError: no face, a face that moves too far for one crop, or fewer than ``n`` frames.
    """
    info = video.probe(path)
    boxes = []
    with FaceLocator() as locate:
        for frame in islice(_first(path, n), 0, None, LOCATE_EVERY):
            boxes.append(locate(frame))
    known = [box for box in boxes if box is not None]
    square = choose_square(np.stack(known), info.height, info.width) if known else None
    if square is None:
        raise UserError(f"{path}: no face was found, or it moves too far for one crop.")
    seen = landmarks.track(crop_square(frame[None], square, MESH_SIZE) for frame in _first(path, n))
    if len(seen) < n:
        raise UserError(f"{path} has {len(seen)} frames at 25 fps, but the sound needs {n}.")
    if not seen.valid.any():
        raise UserError(f"{path}: the face cannot be measured.")
    pose = portrait.pose[0] + seen.pose - seen.pose[0]
    eyes = np.maximum(portrait.eyes[0] + seen.eyes - seen.eyes[0], 0)
    return torch.from_numpy(pose), torch.from_numpy(eyes)


def _first(path: Path, n: int) -> Iterator[Tensor]:
    """The first ``n`` frames of a video, uint8 (3, H, W) each."""
    return islice((frame for chunk in video.stream(path, 16) for frame in chunk), n)
