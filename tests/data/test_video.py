from __future__ import annotations

import resource
import struct
import threading
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from tests import recordings
from tests.recordings import counted, counting, record
from tests.tiny import HDTF
from thbench.core.errors import UserError
from thbench.data.media import audio, decoding, probing, random_access, video, writer

DECODERS = ["pyav", *(["decord"] if video.has_decord() else [])]


def moving(n: int = 40, height: int = 64, width: int = 96) -> torch.Tensor:
    """Frame t shows 6 t in red, smooth ramps in green and blue."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.stack([torch.full_like(x, 6 * t), 2 * y, x]) for t in range(n)]).to(
        torch.uint8
    )


def write(path: Path, frames: torch.Tensor, **options: object) -> Path:
    with video.VideoWriter(path, *frames.shape[-2:], **options) as writer:
        for chunk in frames.split(7):
            writer.write(chunk)
    return path


def difference(a: torch.Tensor, b: torch.Tensor) -> int:
    assert a.shape == b.shape
    return int((a.int() - b.int()).abs().max())


def rotate_header(path: Path) -> None:
    """Give the picture's track the matrix of a quarter turn clockwise (ISO 14496-12, tkhd)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_round_trip_keeps_pixels_count_and_tags(tmp_path: Path) -> None:
    frames = moving()
    tags = {"synthetic": "true", "strategy": "dawn", "run": "é-1"}
    path = write(tmp_path / "sub" / "a.mp4", frames, metadata=tags)
    assert [p.name for p in path.parent.iterdir()] == ["a.mp4"]
    assert video.read_metadata(path) == tags
    info = video.probe(path)
    assert (info.width, info.height, info.n_frames, info.fps) == (96, 64, 40, 25.0)
    assert not info.has_audio
    assert info.duration == pytest.approx(1.6)
    assert (video.read(path).float() - frames.float()).abs().mean() < 3
    assert difference(torch.cat(list(video.stream(path, 9))), video.read(path)) == 0


@pytest.mark.parametrize("size", [(64, 96), (64, 64), (16, 32), (128, 128)])
def test_equal_input_gives_equal_bytes(size: tuple[int, int], tmp_path: Path) -> None:
    wave = np.sin(np.arange(40 * 640) / 20).astype(np.float32)
    paths = [write(tmp_path / f"{k}.mp4", moving(40, *size), waveform=wave) for k in range(6)]
    assert len({path.read_bytes() for path in paths}) == 1


@pytest.mark.parametrize("size", [(64, 96), (64, 64)])
def test_processors_write_the_same_bytes(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x264 told to compute as an older processor does; its note of its settings is in the file."""
    own = write(tmp_path / "own.mp4", moving(40, *size)).read_bytes()
    assert b" mbtree=0 " in own
    monkeypatch.setattr(writer, "_X264", f"{writer._X264}:asm=sse4")
    assert write(tmp_path / "old.mp4", moving(40, *size)).read_bytes() == own


@pytest.mark.skipif(not video.has_decord(), reason="decord is not installed")
@pytest.mark.parametrize("indices", [[3, 39, 3, -1, 17], slice(5, 30, 4), None])
def test_backends_agree(tmp_path: Path, indices: video.Indices) -> None:
    path = write(tmp_path / "a.mp4", moving())
    ours, theirs = video.read(path, indices), random_access._read_decord(path, indices)
    assert theirs is not None
    assert difference(ours, theirs) <= 2
    assert difference(video.read(path, indices, "decord"), theirs) == 0
    expected = torch.arange(40)[indices] if indices is not None else torch.arange(40)
    assert (ours[:, 0].float().mean((1, 2)) / 6).round().tolist() == expected.tolist()


def test_ten_bits_are_read_the_same_way_in_order_and_by_index(tmp_path: Path) -> None:
    noise = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.interpolate(noise, (64, 96), mode="bilinear")[0] * 255
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p10le"
        for _ in range(5):
            image = picture.permute(1, 2, 0).byte().contiguous().numpy()
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())
    assert video.probe(path).bits == 10
    in_order = torch.cat(list(video.stream(path)))
    for decoder in DECODERS:
        assert difference(video.read(path, [0, 3], decoder), in_order[[0, 3]]) == 0
    assert (in_order[0].float() - picture).abs().mean() < 6


@pytest.mark.real
@pytest.mark.parametrize("name", [HDTF, "varied/grid_lbax4n.mpg"])
def test_backends_agree_on_real_clips(clips: Path, name: str) -> None:
    path = clips / name
    assert difference(video.read(path, [0, 41, 60], "decord"), video.read(path, [0, 41, 60])) <= 2
    everything = torch.cat(list(video.stream(path, fps=None)))
    assert difference(video.read(path, [41, 60]), everything[[41, 60]]) == 0


def test_index_out_of_range(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(5))
    with pytest.raises(IndexError):
        video.read(path, [5])
    assert video.read(path, []).shape == (0, 3, 64, 96)


def test_rotation_is_applied(tmp_path: Path) -> None:
    frames = torch.zeros(3, 3, 64, 96, dtype=torch.uint8)
    frames[:, :, :32, :32] = 255  # upper left
    path = write(tmp_path / "a.mp4", frames)
    rotate_header(path)
    info = video.probe(path)
    assert (info.width, info.height, info.upright) == (64, 96, False)
    for got in (video.read(path, [1])[0], next(video.stream(path))[1]):
        assert got.shape == (3, 96, 64)
        assert got[:, :28, 36:].min() > 200  # upper right after a clockwise turn
        assert got[:, 40:].max() < 50


def test_other_rates_are_resampled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(40), fps=50)
    got = torch.cat(list(video.stream(path)))
    assert len(got) == 20
    assert (got[:, 0].float().mean((1, 2)) / 6).round().tolist() == list(range(0, 40, 2))


def test_resample_takes_the_nearest_in_time() -> None:
    uneven = [(0.0, "a"), (0.03, "b"), (0.2, "c")]
    assert list(video.resample(uneven, 25, 0.04)) == ["a", "b", "b", "c", "c", "c"]
    assert list(video.resample([(0.0, "a")], 25, 0.001)) == ["a"]
    for rate in (24, 25, 29.97, 30, 60):
        timed = [(k / rate, k / rate) for k in range(200)]
        got = np.array(list(video.resample(timed, 25, 1 / rate)))
        assert len(got) == round(200 / rate * 25)
        assert np.abs(got - np.arange(len(got)) / 25)[:-1].max() <= 0.5 / rate + 1e-6


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut"])
def test_bad_files_are_explained(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video " * 100)
    elif kind == "cut":
        whole = write(path, torch.randint(0, 255, (30, 3, 64, 64), dtype=torch.uint8))
        path.write_bytes(whole.read_bytes()[: path.stat().st_size // 2])
    for read in (video.read, lambda p: list(video.stream(p))):
        with pytest.raises(UserError, match=r"a\.mp4"):
            read(path)


def test_log_of_ffmpeg_is_off_whoever_turned_it_on(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(5))
    av.logging.set_level(av.logging.ERROR)  # as torchvision 0.21 to 0.25 do
    with video.open_media(path):
        assert av.logging.get_level() is None


def test_sound_only_is_no_video(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", np.zeros(16000))
    with pytest.raises(UserError, match="no video track"):
        video.probe(tmp_path / "a.wav")


def test_nothing_is_left_of_a_failed_video(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", moving(5))
    before = path.read_bytes()
    with pytest.raises(RuntimeError), video.VideoWriter(path, 64, 96) as writer:  # noqa: PT012
        writer.write(moving(3))
        raise RuntimeError
    with pytest.raises(UserError, match="no frames"), video.VideoWriter(path, 64, 96):
        pass
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="even"):
        video.VideoWriter(path, 63, 96)


def test_full_disk(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match="could not be written"):
            write(tmp_path / "a.mp4", torch.randint(0, 255, (40, 3, 64, 96), dtype=torch.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_images_of_every_kind(tmp_path: Path) -> None:
    red = Image.new("RGB", (40, 20), (255, 0, 0))
    red.putpixel((0, 0), (0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    red.save(tmp_path / "exif.png", exif=exif)
    turned = video.read_image(tmp_path / "exif.png")
    assert turned.shape == (3, 40, 20)
    assert turned[:, 0, -1].tolist() == [0, 0, 255]
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert video.read_image(tmp_path / "clear.png").min() == 255
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "deep.png")
    assert video.read_image(tmp_path / "deep.png").unique().tolist() == [128]
    for mode in ("L", "CMYK"):
        red.convert(mode).save(tmp_path / "a.jpg")
        assert video.read_image(tmp_path / "a.jpg").shape == (3, 20, 40)
    (tmp_path / "bad.png").write_bytes((tmp_path / "exif.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"bad\.png"):
        video.read_image(tmp_path / "bad.png")


REORDERED = {"bf": "2", "g": "25", "crf": "18"}
FILES = {
    "h264": ("libx264", REORDERED, None), "avi": ("libx264", REORDERED, None),
    "flv": ("libx264", REORDERED, None), "ts": ("libx264", REORDERED, "mpegts"),
    "mkv": ("libx264", REORDERED, None), "mp4": ("libx264", REORDERED, None),
    "mpg": ("mpeg1video", {"bf": "2", "b": "1M"}, None),
    "m4v": ("mpeg4", {"bf": "2", "b": "1M"}, "m4v"), "webm": ("libvpx", {"b": "500k"}, None),
}  # fmt: skip


def until_error(path: Path, found: list[int]) -> None:
    """Collect the numbers of all pictures."""
    for part in video.chunks(path, 16):
        found += counted(part.frames)


def every(path: Path) -> video.Chunk:
    """All chunks of a video as one."""
    parts = list(video.chunks(path, 16))
    frames = torch.cat([part.frames for part in parts])
    damaged, away = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("damaged", "away")
    )
    assert len(frames) == len(damaged) == len(away)
    return video.Chunk(frames, damaged, away)


@pytest.mark.parametrize("suffix", FILES)
def test_any_container_gives_its_frames_in_order(tmp_path: Path, suffix: str) -> None:
    """50 pictures at 30 a second, among them files without time stamps, counts or durations."""
    codec, options, container = FILES[suffix]
    path = record(tmp_path / f"a.{suffix}", counting(50), fps=30, codec=codec, options=options,
                  container=container)  # fmt: skip
    info = video.probe(path)
    assert (info.n_frames, info.fps) == (50, 30)
    assert info.duration == pytest.approx(50 / 30, abs=0.002)
    found = every(path)
    # 1/60 s lies as far from one picture as from the next: either will do
    expected = np.arange(42) / 25 * 30
    assert np.abs(np.array(counted(found.frames)) - expected).max() <= 0.5 + 1e-6
    assert found.away.max() == pytest.approx(1 / 75, abs=0.0015)
    assert not found.damaged.any()
    assert counted(video.read(path, [49, 0, 3, 7, 30])) == [49, 0, 3, 7, 30]


def test_a_browser_s_webm_is_as_long_as_its_time_stamps_say(tmp_path: Path) -> None:
    """No duration, no rate, milliseconds that come unevenly: FFmpeg guesses 1000 a second."""
    rng = np.random.default_rng(0)
    path = record(tmp_path / "a.webm", counting(70, step=3), codec="libvpx", options={"b": "500k"},
                  fps=15, at=lambda t: t + 0.007 * rng.integers(0, 2),
                  container_options={"live": "1"})  # fmt: skip
    recordings.forget_rate(path)
    info = video.probe(path)
    assert info.duration == pytest.approx(70 / 15, abs=0.02)
    assert info.n_frames == 70
    assert info.fps == pytest.approx(15, abs=0.1)
    found = every(path)
    assert len(found) == round(info.duration * 25) == 117
    assert np.abs(np.array(counted(found.frames, 3)) - np.arange(117) / 25 * 15).max() < 0.7


def test_pictures_come_at_their_time_stamps(tmp_path: Path) -> None:
    """A gap of .52 s, after a late start; what stands still is told."""
    path = record(tmp_path / "a.mkv", counting(50), at=lambda t: t + (0.4 if t < 0.99 else 0.92))
    found = every(path)
    shown = counted(found.frames)
    assert shown[:25] == list(range(25))
    assert shown[-25:] == list(range(25, 50))
    assert set(shown[25:-25]) == {24, 25}
    assert found.away.argmax() in (30, 31, 32)
    assert found.away.max() == pytest.approx(0.28, abs=0.001)
    assert found.away[:25].max() < 0.001 > found.away[-25:].max()
    assert video.probe(path).duration == pytest.approx(2.52, abs=0.001)


def test_a_rate_that_changes(tmp_path: Path) -> None:
    """25 a second, then 12.5; the header says something in between."""
    path = record(tmp_path / "a.mkv", counting(50), at=lambda t: t if t < 0.99 else 2 * t - 1)
    shown = counted(every(path).frames)
    assert shown[:25] == list(range(25))
    assert shown[25:71:2] == list(range(25, 48))
    assert len(shown) == round(video.probe(path).duration * 25)


@pytest.mark.parametrize("kind", ["twice", "back"])
def test_time_stamps_that_do_not_go_on(tmp_path: Path, kind: str) -> None:
    path = record(tmp_path / "a.mkv", counting(50))
    twice = lambda t: t if round(t * 25) % 5 else max(0, t - 0.04)  # noqa: E731
    recordings.restamp(path, 1, twice if kind == "twice" else lambda t: t - 0.2 * (t > 0.99))
    found = every(path)
    assert len(found) == (50 if kind == "twice" else 45)
    shown = counted(found.frames)
    assert shown == sorted(shown)
    wanted = np.arange(len(shown)) + 5 * (np.arange(len(shown)) >= 25) * (kind == "back")
    assert np.abs(np.array(shown) - wanted).max() <= 1
    assert found.away.max() <= 0.041


@pytest.mark.parametrize(("jump", "words"), [(-2.0, "backwards"), (360_000.0, "pause")])
def test_pictures_of_several_recordings_are_refused(
    tmp_path: Path, jump: float, words: str
) -> None:
    path = tmp_path / "a.mkv"
    record(path, counting(60), at=lambda t: t + max(0, jump) * (t > 1.99))
    if jump < 0:
        recordings.restamp(path, 1, lambda t: t + jump * (t > 1.99))
    found: list[int] = []
    with pytest.raises(UserError, match=rf"a\.mkv.*{words}"):
        until_error(path, found)
    assert found == list(range(49))


def test_pictures_before_the_edit_list_are_not_shown(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", counting(50), options=REORDERED)
    recordings.begin_later(path, 0.4)
    assert counted(every(path).frames) == list(range(10, 50))
    assert video.probe(path).n_frames == 40
    for decoder in DECODERS:
        assert counted(video.read(path, [0, 39], decoder)) == [10, 49]


@pytest.mark.skipif(not video.has_decord(), reason="decord is not installed")
def test_what_decord_gives_up_is_read_by_pyav(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames before the edit list count as broken ones; that error is no ``DECORDError``."""
    path = record(tmp_path / "a.mp4", counting(50), options=REORDERED)
    recordings.begin_later(path, 0.4)
    monkeypatch.setattr(random_access, "_suits_decord", lambda *_: 50)
    assert random_access._read_decord(path, None) is None
    assert counted(video.read(path, None, "decord")) == list(range(10, 50))


def test_of_a_file_that_is_cut_short_the_rest_comes_first(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", counting(50), container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found: list[int] = []
    with pytest.raises(UserError, match="cut short"):
        until_error(path, found)
    assert found == list(range(len(found)))
    assert len(found) > 5


FAST = {"crf": "10", "preset": "veryfast"}


@pytest.mark.parametrize(("size", "fits"), [(48, True), (32, False)])
def test_a_size_that_changes(tmp_path: Path, size: int, fits: bool) -> None:
    """As in a call whose line gets worse: one stream of VP8, from 64x64 to 48x48 or 64x32."""
    sizes = [(64, 64), (size, 64 if size == 32 else size)]
    parts = [
        record(tmp_path / f"{k}.webm", counting(10, step=20)[:, :, :height, :width], codec="libvpx",
               options={"b": "1M"}) for k, (height, width) in enumerate(sizes)
    ]  # fmt: skip
    path = tmp_path / "a.webm"
    with av.open(str(path), "w") as file, av.open(str(parts[0])) as first:
        stream = file.add_stream_from_template(first.streams.video[0])
        for k, part in enumerate(parts):
            with av.open(str(part)) as source:
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts, packet.dts = packet.pts + 400 * k, packet.dts + 400 * k
                        packet.stream = stream
                        file.mux(packet)
    if fits:
        found = every(path).frames
        assert found.shape == (20, 3, 64, 64)
        assert counted(found, 20) == [*range(10), *range(10)]
    else:
        with pytest.raises(UserError, match=r"change their shape at 0\.40 s, from 64x64 to 64x32"):
            every(path)


DAMAGE = {
    "mp4": ("libx264", {**FAST, "g": "25", "b-pyramid": "none"}),
    "mkv": ("libx264", {**FAST, "bf": "0"}),
    "mov": ("libx264", {**FAST, "g": "25", "profile": "baseline"}),
    "avi": ("mpeg4", {"g": "12", "b": "1M"}),
}


@pytest.mark.parametrize("suffix", DAMAGE)
def test_damaged_pictures_are_flagged(tmp_path: Path, suffix: str) -> None:
    """12 of 100 packets; each frame that looks otherwise, and hardly one that does not.

    Of pictures much smaller than these, one in ten damaged packets decodes to another picture
    without a contradiction.
    """
    codec, options = DAMAGE[suffix]
    large = torch.nn.functional.interpolate(recordings.talk(size=96).frames, scale_factor=2)
    path = record(tmp_path / f"a.{suffix}", large, codec=codec, options=options)
    right = every(path)
    assert not right.damaged.any()
    assert len(recordings.damage(path, 12, seed=5, spare=1)) == 12
    found = every(path)
    assert len(found) == len(right) == 100
    off = (found.frames.float() - right.frames.float()).abs().mean((1, 2, 3)).numpy()
    broken = off > 2
    assert broken.sum() > 10
    assert (broken & ~found.damaged).sum() <= 1
    # a picture that was lost is flagged too, and another shown in its place
    clean = (off == 0) & (found.away < 0.001)
    assert (clean & found.damaged).sum() <= 1
    with pytest.raises(UserError, match=rf"damaged at frame {found.damaged.argmax()}"):
        list(video.stream(path))
    with pytest.raises(UserError, match=r"a\.\w+ .*damaged"):
        video.read(path)


def test_damage_of_a_picture_on_which_nothing_builds_stays_there(tmp_path: Path) -> None:
    """One B-frame of H.264, whose packet says so."""
    path = record(tmp_path / "a.mp4", recordings.talk(size=96).frames,
                  options={"g": "250", "bf": "2", "b-pyramid": "none", "crf": "18"})  # fmt: skip
    with av.open(str(path)) as file:
        extra = bytes(file.streams.video[0].codec_context.extradata)
        places = [(p.pos, p.size, decoding.is_unreferenced(bytes(p), extra))
                  for p in file.demux(video=0) if p.size]  # fmt: skip
    place, size, _ = next(each for each in places[20:] if each[2] and each[1] > 60)
    content = bytearray(path.read_bytes())
    content[place + size // 2 : place + size] = bytes(size - size // 2)
    path.write_bytes(content)
    assert every(path).damaged.sum() == 1


def test_nothing_goes_on_decoding_a_video_that_nobody_reads_on(tmp_path: Path) -> None:
    path, before = write(tmp_path / "a.mp4", moving()), threading.active_count()
    reading = video.stream(path, 2)
    next(reading)
    assert threading.active_count() == before + 1
    del reading
    assert threading.active_count() == before


def test_decoder_is_known_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.mp4", moving(5))
    with pytest.raises(UserError, match="Did you mean 'decord'"):
        video.read(path, [0], "decor")
    monkeypatch.setattr(random_access, "has_decord", lambda: False)
    with pytest.raises(UserError, match="not installed"):
        video.read(path, [0], "decord")


def test_large_pictures_come_in_smaller_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.mp4", moving())
    whole = list(video.chunks(path, 16))
    size = whole[0].frames[0].nbytes
    for room, most in ((3.5 * size, 3), (size / 2, 1)):
        monkeypatch.setattr(video, "CHUNK_BYTES", int(room))
        parts = list(video.chunks(path, 16))
        assert max(map(len, parts)) == most
        assert torch.equal(
            torch.cat([part.frames for part in parts]), torch.cat([part.frames for part in whole])
        )


def test_frames_of_other_kinds_in_between_change_no_pixels():
    """One reformatter serves all frames of a kind; nothing of another kind stays in it."""
    noise = np.random.default_rng(0)
    frames = []
    for colorspace in ("ITU601", "ITU709"):
        for color_range in ("MPEG", "JPEG"):
            for width in (32, 64):
                image = noise.integers(0, 256, (32, width, 3), np.uint8)
                rgb = av.VideoFrame.from_ndarray(image, format="rgb24")
                ways = {"dst_colorspace": colorspace, "dst_color_range": color_range}
                frames.append(rgb.reformat(format="yuv420p", **ways))
    alone = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert not np.array_equal(alone[0], alone[2])
    for _ in range(2):
        for frame, pixels in zip(frames, alone, strict=True):
            made = probing.to_pixels(decoding.DecodedFrame(frame, 0.0, False))
            assert np.array_equal(made, pixels)
