"""Clips that are not as they should be, each with its documented outcome; and what is printed."""

import dataclasses
import itertools
import json
import math
import shutil

import av
import numpy as np
import pytest
import torch

from metrics.extractors.pyramid import Pyramid
from tests import recordings
from tests.test_evaluation import SIZE, fake_track, frames, save
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.core.files import sha256
from thbench.data.media.video import chunks, read
from thbench.evaluation import features, protocol, report, results
from thbench.evaluation.score import score, score_ground_truth
from thbench.leaderboard.rank import tables_of

FRAMES = 50


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(features, "track", nodding)


def nodding(video):
    """Like ``fake_track``, with a head that keeps turning to and fro."""
    found = fake_track(video)
    found["pose"][:, 0] = 0.2 * torch.sin(torch.arange(len(found["pose"])) / 3)
    return found


@pytest.fixture
def rule():
    names = ("psnr", "bas", "blinks", "pose-error", "fd-pyramid")
    return protocol.parse("p", {"size": SIZE, "metrics": [{"metric": n} for n in names]})


@pytest.fixture
def folders(tmp_path):
    for i in range(4):
        sounding(tmp_path / "ref" / f"c{i}.mp4", frames(FRAMES, seed=i), clicks(seed=i))
        darker = (frames(FRAMES, seed=i).float() * 0.8).to(torch.uint8)
        sounding(tmp_path / "gen" / f"c{i}.mp4", darker, clicks(seed=i))
    return tmp_path


def clicks(n=FRAMES, seed=0):
    """Two clicks a second in faint noise."""
    wave = np.random.default_rng(seed).normal(0, 0.001, n * 640)
    for start in range(2000, len(wave) - 400, 8000):
        wave[start : start + 400] += np.hanning(400) * np.sin(np.arange(400))
    return wave.astype(np.float32)


def sounding(path, video, wave):
    """An mp4 with sound, or, for None, without a sound track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25, options={"crf": "10"})
        picture.width, picture.height, picture.pix_fmt = SIZE, SIZE, "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono") if wave is not None else None
        for image in video.permute(0, 2, 3, 1).numpy():
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            container.mux(picture.encode(made))
        container.mux(picture.encode())
        if sound is not None:
            made = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
            made.sample_rate = 16000
            container.mux(sound.encode(made))
            container.mux(sound.encode())


def run(folders, rule, **kwargs):
    kwargs = {"run": "r", "strategy": "s", "progress": False, "cache": folders / "cache"} | kwargs
    return score(folders / "gen", folders / "ref", rule, **kwargs)


def values(result, name):
    return {row.id: row.metrics[name] for row in result.per_clip}


def test_a_clip_without_sound_or_with_silence_has_no_figure_of_sound(folders, rule):
    whole = run(folders, rule)
    assert all(v is not None for v in values(whole, "BAS (pose)").values())
    sounding(folders / "gen" / "c1.mp4", frames(FRAMES, seed=1), None)
    sounding(folders / "gen" / "c2.mp4", frames(FRAMES, seed=2), np.zeros(FRAMES * 640, np.float32))
    result = run(folders, rule)
    assert result.coverage.scored == 4
    beats = values(result, "BAS (pose)")
    assert [name for name, v in beats.items() if v is None] == ["c1", "c2"]
    assert result.metrics["BAS (pose)"].missing == 2
    assert result.metrics["PSNR"].missing == 0
    mean = math.fsum(v for v in beats.values() if v is not None) / 2
    assert result.metrics["BAS (pose)"].value == pytest.approx(mean)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_frame_whose_features_are_nan_leaves_its_pair_out(folders, rule, monkeypatch, value):
    healthy = run(folders, rule)

    def broken(self, batch):
        found = describe(self, batch)
        if batch.float().mean() < 1:  # the black frame below
            found[0, 3] = value
        return found

    describe = Pyramid.forward
    monkeypatch.setattr(Pyramid, "forward", broken)
    spoilt = frames(FRAMES, seed=1)
    spoilt[10] = 0
    monkeypatch.setattr(Pyramid, "__init__", lambda self, device: one_by_one(self, device))
    sounding(folders / "gen" / "c1.mp4", spoilt, clicks(seed=1))
    result = run(folders, rule)
    assert result.coverage.scored == 3
    assert result.coverage.unreadable == {
        "seed-0/c1": "the video: its pyramid features are NaN or infinite."
    }
    assert math.isfinite(result.metrics["FD-pyramid"].value)
    assert values(result, "PSNR") == {k: v for k, v in values(healthy, "PSNR").items() if k != "c1"}


def one_by_one(extractor, device):
    super(Pyramid, extractor).__init__(device, batch_size=1)


def test_a_disk_that_takes_nothing_ends_scoring_and_leaves_no_clip_out(folders, rule):
    digest = sha256(folders / "gen" / "c2.mp4")
    (folders / "cache").mkdir()
    (folders / "cache" / digest[:2]).touch()  # where a folder is wanted
    with pytest.raises(UserError, match="could not be written"):
        run(folders, rule)


DAMAGED = (
    *("{}", "null", "[]", '{"figures": {}, "bins": {}}'),
    *('{"figures": {"PSNR": 1}, "bins": {}}', '{"figures": []}', "{", ""),
)


def test_kept_values_that_are_damaged_are_measured_again(folders, rule):
    first = run(folders, rule)
    kept = sorted((folders / "cache" / "values").rglob("*.json"))
    assert len(kept) == 4
    for part in (DAMAGED[:4], DAMAGED[4:]):
        for path, text in zip(kept, part, strict=True):
            path.write_text(text)
        assert run(folders, rule).per_clip == first.per_clip


def test_kept_features_that_are_damaged_or_others_are_made_again(folders, rule):
    first = run(folders, rule)
    kept = sorted((folders / "cache").rglob("*.npz"))
    for k, path in enumerate(kept):
        whole = bytearray(path.read_bytes())
        if k % 3 == 0:
            np.savez(path, something=np.zeros(3))
        else:
            at = whole.index(b"PK\x01\x02") + (6 if k % 3 == 1 else 8)  # version, encryption
            whole[at] = 173
            path.write_bytes(whole)
    shutil.rmtree(folders / "cache" / "values")
    assert run(folders, rule).per_clip == first.per_clip


def test_no_clips_at_all(folders, rule, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no clips"):
        score_ground_truth(tmp_path / "empty", rule)
    with pytest.raises(UserError, match="named like a clip"):
        score(tmp_path / "empty", folders / "ref", rule, run="r", strategy="s")


def test_order_of_files_and_batches_does_not_matter(folders, rule, monkeypatch):
    first = run(folders, rule)
    for folder in ("gen", "ref"):
        shuffled = folders / "again" / folder
        shuffled.mkdir(parents=True)
        for i in (2, 0, 3, 1):
            (shuffled / f"c{i}.mp4").write_bytes((folders / folder / f"c{i}.mp4").read_bytes())
    monkeypatch.setattr(Pyramid, "__init__", lambda self, device: one_by_one(self, device))
    again = run(folders / "again", rule)
    assert again.per_clip == first.per_clip
    for name, figure in first.metrics.items():
        assert again.metrics[name].value == pytest.approx(figure.value, rel=1e-6, nan_ok=True)


@pytest.mark.real
def test_of_two_faces_one_is_followed(clips, monkeypatch):
    monkeypatch.undo()
    people = sorted((clips / "voxceleb-mini").rglob("*.mp4"))
    big, small = (read(path)[:6] for path in (people[0], people[-1]))
    size = big.shape[-1]
    picture = torch.full((6, 3, 2 * size, 2 * size), 128, dtype=torch.uint8)
    picture[:, :, size // 2 : size // 2 + size, :size] = big
    shrunk = torch.nn.functional.interpolate(small.float(), (size // 2, size // 2), mode="area")
    picture[:, :, size : size + size // 2, size + size // 4 : size + 3 * size // 4] = shrunk.byte()
    found = features.track(picture)
    centres = found["landmarks"][found["valid"].bool()].mean(1)[:, 0]
    assert len(centres) == 6
    assert (centres < 0.5).all() or (centres > 0.5).all()


# The reference's own row


def test_ground_truth_has_what_a_video_shows_alone(folders, rule):
    result = score_ground_truth(folders / "ref", rule, cache=folders / "cache", progress=False)
    scored = run(folders, rule)
    blinks = result.metrics["Blink/s"]
    assert blinks.value == blinks.reference == scored.metrics["Blink/s"].reference
    assert result.metrics["BAS (pose)"].value == scored.metrics["BAS (pose)"].reference
    for name in ("PSNR", "Pose error", "FD-pyramid"):
        figure = result.metrics[name]
        assert (figure.value, figure.n, figure.missing) == (None, 0, 0)
        assert figure.interval is None
    assert (result.strategy, result.origin) == ("ground-truth", "measured")
    covered = dataclasses.replace(result.coverage, encodings={})
    assert covered == results.Coverage(expected=4, scored=4)
    assert (result.protocol, result.data) == (scored.protocol, scored.data)
    (table,) = tables_of([scored, result])
    assert [row.title for row in table.rows] == ["Ground truth", "s"]


def test_what_is_measured_on_rendered_faces_says_so(folders, rule, monkeypatch):
    monkeypatch.setattr("thbench.data.manifest.is_synthetic", lambda folder: True)
    truth = score_ground_truth(folders / "ref", rule, cache=folders / "cache", progress=False)
    origins = [run(folders, rule, **how).origin for how in ({}, {"origin": "smoke"})]
    assert [truth.origin, *origins] == [results.SYNTHETIC, results.SYNTHETIC, "smoke"]


def test_weights_that_come_later_are_used(folders, rule, monkeypatch):
    """Values kept from a scoring without them do not stand in the way."""
    content = {"size": SIZE, "metrics": [{"metric": "psnr"}, {"metric": "lpips"}]}
    both = protocol.parse("p", content)
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folders / "nowhere"))
    first = run(folders, both)
    assert "thbench weights pull lpips-alexnet" in first.metrics["LPIPS"].unavailable
    monkeypatch.setattr("metrics.perceptual.LPIPS.prepare", lambda self, device: None)
    quarter = lambda self, a, b: torch.full((len(a["frames"]),), 0.25)  # noqa: E731
    monkeypatch.setattr("metrics.perceptual.LPIPS.measure_frames", quarter)
    assert run(folders, both).metrics["LPIPS"].value == 0.25


# The command


def command(folders, *more):
    words = ["score", folders / "gen", "--reference", folders / "ref", "--protocol", "p.yaml"]
    return main([str(w) for w in [*words, "--results", folders / "results", *more]])


@pytest.fixture
def here(folders, rule, monkeypatch):
    """A protocol file, and nothing of the user's."""
    specs = [*rule.metrics, {"metric": "fid"}, {"metric": "dr", "frames": 3}]
    (folders / "p.yaml").write_text(json.dumps({"size": SIZE, "metrics": specs}))
    monkeypatch.chdir(folders)
    monkeypatch.setenv("THBENCH_CACHE", str(folders / "cache"))
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folders / "nowhere"))
    monkeypatch.setenv("COLUMNS", "200")
    return folders


def test_what_is_printed_and_written(here, capsys):
    save(here / "gen" / "stranger.mp4", frames())
    (here / "gen" / "c0.mp4").unlink()
    (here / "gen" / "c1.mp4").write_bytes(b"no video")
    sounding(here / "gen" / "c2.mp4", frames(7, seed=2), clicks(7, seed=2))
    assert command(here, "--name", "mine", "--ground-truth") == 0
    out = capsys.readouterr().out
    for line in (
        "mine [measured]: 2 of 4 clips scored",
        "unpaired, no reference is called so: 1: stranger",
        "absent, no video is called so: 1: c0",
        "cut to the shorter of both: 1: c2 (7 frames, reference 50)",
        "BAS (pose) is not defined: 1: c2",
        "Ground truth [measured]: 4 of 4 clips scored",
    ):
        assert line in out, line
    assert "left out: seed-0/c1: " in out
    assert "unavailable: FID, DR3: run `thbench weights pull fid-inception`" in out
    names = sorted(path.name for path in (here / "results").iterdir())
    assert names == [
        "ground-truth-ref-p.clips.jsonl", "ground-truth-ref-p.json", "mine-p.clips.jsonl",
        "mine-p.json", "page",
    ]  # fmt: skip
    page = here / "results" / "page" / "mine-p"
    assert f"page: {page / 'index.html'}, to open in a browser" in out
    shown = (page / "data.js").read_text().removeprefix("window.THBENCH = ").rstrip(";\n")
    clips = json.loads(shown)["tables"][0]["gallery"]["clips"]
    assert [clip["id"] for clip in clips if clip["original"] and clip["videos"]] == ["c2", "c3"]
    rows = [json.loads(line) for line in (here / "results" / names[2]).read_text().splitlines()]
    assert [(row["id"], row["frames"], row["lengths"]) for row in rows] == [
        ("c2", 7, [7, 50]), ("c3", 50, [50, 50])
    ]  # fmt: skip
    assert rows[1]["metrics"]["PSNR"] > 10
    for path in (here / "results").glob("*.json"):
        assert results.read(path).per_clip


def test_damaged_frames_are_counted_and_said(here, capsys):
    """Lost packets, sound whole: scored as they come out, unless most of a video is damage."""
    (here / "p.yaml").write_text(json.dumps({"size": SIZE, "metrics": [{"metric": "psnr"}]}))
    for k, count in ((1, 3), (2, 35)):
        save(here / "gen" / f"c{k}.mp4", frames(FRAMES, seed=k))
        recordings.damage(here / "gen" / f"c{k}.mp4", count, spare=1)
    save(here / "ref" / "c3.mp4", frames(FRAMES, seed=3))
    recordings.damage(here / "ref" / "c3.mp4", 2, seed=1, spare=1)
    broken = {}
    for path in (here / "gen" / "c1.mp4", here / "gen" / "c2.mp4", here / "ref" / "c3.mp4"):
        flags = np.concatenate([part.damaged for part in chunks(path)])
        assert len(flags) == FRAMES
        broken[path.stem] = int(flags.sum())
    assert 0 < broken["c1"] <= 25 < broken["c2"]
    assert 0 < broken["c3"] <= 25
    assert command(here, "--name", "mine") == 0
    out = capsys.readouterr().out
    total = broken["c1"] + broken["c3"]
    line = f"2 of 3 clips have damaged frames ({total} of {2 * 3 * FRAMES})"
    assert line in out.splitlines()
    reason = f"the video: {broken['c2']} of {FRAMES} frames are damaged: make or copy it again."
    assert f"left out: seed-0/c2: {reason}" in out
    made = results.read(here / "results" / "mine-p.json")
    assert made.coverage.damaged == results.Damage(2, total, 2 * 3 * FRAMES)
    assert {row.id: row.damaged for row in made.per_clip} == {
        "c0": {}, "c1": {"generated": broken["c1"]}, "c3": {"reference": broken["c3"]}
    }  # fmt: skip
    assert all(row.metrics["PSNR"] is not None for row in made.per_clip)
    (table,) = tables_of([made])
    assert f"{made.title}: {line}." in table.notes
    assert command(here, "--name", "again", "--ground-truth") == 0  # from the cache
    assert line in capsys.readouterr().out.splitlines()
    own = results.read(here / "results" / "ground-truth-ref-p.json")
    assert own.coverage.damaged == results.Damage(1, broken["c3"], 4 * FRAMES)
    assert [row.damaged for row in own.per_clip if row.damaged] == [{"reference": broken["c3"]}]


def test_long_lists_are_cut_and_counted():
    clips = tuple(results.ClipRow(f"c{i}", lengths=(1, 2), metrics={"M": None}) for i in range(8))
    made = results.Result(
        run="r", strategy="s", title="S", origin="smoke", data=results.DataRef("d", "d"),
        protocol=results.ProtocolRef("p", "h"), per_clip=clips, seeds=(0, 1),
        coverage=results.Coverage(expected=8, scored=8, absent=tuple(map(str, range(6)))),
        metrics={"M": results.MetricValue(None, "higher", missing=8, notes=("take care",))},
    )  # fmt: skip
    lines = report.lines(made)
    assert lines[0] == "S [smoke]: 8 of 16 clips scored"
    assert "absent, no video is called so: 6: 0, 1, 2, 3, 4 and 1 more" in lines
    assert any(line.endswith("c4 (1 frames, reference 2) and 3 more") for line in lines)
    assert "M: take care" in lines
    assert "M is not defined: 8: c0, c1, c2, c3, c4 and 3 more" in lines
    assert not any("\n" in line for line in itertools.chain(lines))
