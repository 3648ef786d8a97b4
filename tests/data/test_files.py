"""Which files count as videos, where they lie, and what is said of the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from thbench.core.errors import UserError
from thbench.core.files import write_atomic
from thbench.data import listing
from thbench.data.listing import LeftOut, list_videos, summary
from thbench.data.media import audio, video
from thbench.evaluation.pairing import find_videos

Touch = Callable[..., Path]


@pytest.fixture
def touch(tmp_path: Path) -> Touch:
    """Make empty files below a folder."""

    def made(*names: str, folder: str = "s") -> Path:
        root = tmp_path / folder
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        return root

    return made


def names(found: listing.Listing, root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in found.videos]


def reasons(found: listing.Listing, root: Path) -> dict[str, str]:
    return {os.path.relpath(one.path, root): one.reason for one in found.left_out}


def test_videos_are_listed_in_order_and_the_rest_is_counted(touch: Touch) -> None:
    root = touch("b.mp4", "a/c.FLV", "a/d.txt", "README", "a/e.TXT")
    (root / "folder.mp4").mkdir()
    found = list_videos(root)
    assert names(found, root) == ["a/c.FLV", "b.mp4"]
    assert found.left_out == []
    assert found.others == {".txt": 2, "": 1}
    assert list(find_videos(root)) == ["a/c", "b"]
    with pytest.raises(UserError, match="no folder"):
        list_videos(root / "b.mp4")


def test_hidden_videos_are_counted(touch: Touch) -> None:
    root = touch("a.mp4", ".e.mp4", ".cache/f.mp4", ".cache/g/h.mov", ".cache/i.txt", "b/._a.mp4")
    found = list_videos(root)
    assert names(found, root) == ["a.mp4"]
    hidden = "hidden videos ({} in files or folders that begin with a dot)"
    assert reasons(found, root) == {".": hidden.format(3), "b": hidden.format(1)}
    assert names(list_videos(root / ".cache"), root / ".cache") == ["f.mp4", "g/h.mov"]


def test_links_are_followed(touch: Touch) -> None:
    """A linked folder and a linked file are part of the set; a broken link is named."""
    touch("p1/a.mp4", "p1/b/c.mp4", "x.mp4", folder="elsewhere")
    root = touch("p0/a.mp4")
    (root / "p1").symlink_to("../elsewhere/p1")
    (root / "p2.mp4").symlink_to("../elsewhere/x.mp4")
    for gone in ("gone.mp4", "gone", "gone.txt"):
        (root / gone).symlink_to("../nowhere")
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "named").symlink_to("../elsewhere/x.mp4")
    found = list_videos(root)
    assert names(found, root) == ["p0/a.mp4", "p1/a.mp4", "p1/b/c.mp4", "p2.mp4"]
    assert found.others == {"": 1}  # a link is known by its own name
    broken = dict.fromkeys(("gone", "gone.mp4", "self.mp4"), "a broken link")
    assert reasons(found, root) == broken
    (line,) = summary(found.left_out)
    assert line == f"left out: 3 x a broken link, such as {root / 'gone'}"


def test_loops_end_and_nothing_counts_twice(touch: Touch) -> None:
    root = touch("z/a.mp4", "z/b.mp4")
    (root / "z/up").symlink_to("..")
    (root / "z/here").symlink_to(root / "z")
    (root / "again").symlink_to("z")
    (root / "b.mp4").symlink_to("z/b.mp4")
    os.link(root / "z/a.mp4", root / "z/hard.mp4")
    found = list_videos(root)
    assert names(found, root) == ["z/a.mp4", "z/b.mp4"]
    assert reasons(found, root) == {
        "again": "the same folder as another (z)",
        "z/up": "the same folder as another (.)",
        "z/here": "the same folder as another (z)",
        "b.mp4": "the same file as another (z/b.mp4)",
        "z/hard.mp4": "the same file as another (z/a.mp4)",
    }


def test_scoring_goes_by_names(touch: Touch, capsys: pytest.CaptureFixture[str]) -> None:
    """A method that gives one video for two clips or seeds may link it; loops still end."""
    root = touch("seed-0/a.mp4", "seed-0/b\nc.mp4")
    (root / "seed-0/b.mp4").symlink_to("a.mp4")
    (root / "seed-1").symlink_to("seed-0")
    (root / "seed-0/up").symlink_to("..")
    assert list(find_videos(root)) == ["seed-0/a", "seed-0/b", "seed-1/a", "seed-1/b"]
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(",")[0] for line in lines) == [
        "left out: 2 x its name cannot be used",
        "left out: 2 x the same folder as another",
    ]


@pytest.mark.parametrize("mark", [".prepare/lock", "prepare.json", "manifest.jsonl"])
def test_a_prepared_data_set_inside_is_left_out(touch: Touch, mark: str) -> None:
    root = touch("a.mp4", "out/clips/a.mp4", f"out/{mark}", "other/b.mp4")
    if mark == "manifest.jsonl":
        row = '{"id": "", "identity": "", "split": "", "video": "", "track": ""}'
        (root / "out" / mark).write_text(row + "\n")
        (root / "other" / mark).write_text('{"audio": "b.wav", "text": "not ours"}\n')
    found = list_videos(root)
    assert names(found, root) == ["a.mp4", "other/b.mp4"]
    assert reasons(found, root) == {"out": "a prepared data set"}


@pytest.mark.parametrize(
    ("name", "fault"),
    [("a\nb", "a line break"), ("a\udcff", "bytes that are not UTF-8"),
     ("a\u2028b", "a line break"), ("a\x1b[2J", "a control character"), ("a" * 240, "too long")],
    ids=["newline", "surrogate", "separator", "escape", "long"],
)  # fmt: skip
def test_names_that_no_id_can_have(touch: Touch, name: str, fault: str) -> None:
    root = touch(f"{name}.mp4", f"{name}/x.mp4", f"{name}.txt", "Réc 1\u202fAM.mp4")
    found = list_videos(root)
    assert names(found, root) == ["Réc 1\u202fAM.mp4"]  # as macOS names recordings
    assert len(found.left_out) == 2  # the file and the folder
    for one in found.left_out:
        assert fault in one.reason
        assert one.path.encode().decode().isprintable()
    if fault != "too long":
        with pytest.raises(UserError, match="cannot be used"):
            list_videos(root / name)


def test_names_as_long_as_allowed_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / f"{'é' * 125}.json", "{}")
    assert len(list(tmp_path.iterdir())) == 1


def test_folders_that_cannot_be_read(touch: Touch, monkeypatch: pytest.MonkeyPatch) -> None:
    root, scan = touch("a.mp4", "secret/b.mp4"), os.scandir

    def refuse(path: Any) -> Any:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    closed = [root / "secret"]
    found = list_videos(root)
    assert names(found, root) == ["a.mp4"]
    assert reasons(found, root) == {"secret": "it cannot be read (Permission denied)"}
    closed.append(root)
    with pytest.raises(UserError, match="cannot be read"):
        list_videos(root)


def test_what_is_called_like_a_video_and_is_none(touch: Touch) -> None:
    root = touch("a.mp4")
    os.mkfifo(root / "pipe.mp4")
    found = list_videos(root)
    assert names(found, root) == ["a.mp4"]
    assert reasons(found, root) == {"pipe.mp4": "no plain file"}


CONTAINERS = {
    ".ts": ("mpegts", "mpeg2video", "mp2"),
    ".m2ts": ("mpegts", "libx264", "aac"),
    ".mts": ("mpegts", "libx264", "aac"),
    ".vob": ("vob", "mpeg2video", "mp2"),
    ".wmv": ("asf", "wmv2", "wmav2"),
    ".asf": ("asf", "wmv2", "wmav2"),
    ".3gp": ("3gp", "mpeg4", "aac"),
    ".3g2": ("3g2", "mpeg4", "aac"),
    ".f4v": ("f4v", "libx264", "aac"),
    ".ogv": ("ogg", "libvpx", "libopus"),
}


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_further_containers_are_found_and_read(tmp_path: Path, suffix: str) -> None:
    kind, picture, sound = CONTAINERS[suffix]
    path = tmp_path / f"talk{suffix.upper()}"
    with av.open(str(path), "w", format=kind) as container:
        seen: Any = container.add_stream(picture, rate=25)
        seen.width, seen.height, seen.pix_fmt = 64, 64, "yuv420p"
        heard: Any = container.add_stream(sound, rate=48000, layout="mono")
        heard.bit_rate = 64000
        for k in range(10):
            image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 20 * k, np.uint8), "rgb24")
            image.pts, image.time_base = k, Fraction(1, 25)
            container.mux(seen.encode(image))
        wave = np.sin(np.arange(48000 * 2 // 5) / 20).astype(np.float32)[None]
        resampler = av.AudioResampler(heard.format, heard.layout, 48000, heard.frame_size or 1152)
        frame = av.AudioFrame.from_ndarray(0.5 * wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(heard.encode(part))
        container.mux(seen.encode())
    assert list_videos(tmp_path).videos == [path]
    assert len(video.read(path)) == 10
    assert len(audio.load(path)) == pytest.approx(10 * 640, abs=1500)


def test_reasons_are_summed_up_by_kind() -> None:
    one, two = LeftOut("a", "a broken link"), LeftOut("b", "it cannot be read (no)")
    assert summary([one, two, LeftOut("c", "it cannot be read (never)")]) == [
        "left out: a: a broken link",
        "left out: 2 x it cannot be read, such as b",
    ]
