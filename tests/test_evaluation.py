import dataclasses
import math
import re
from typing import ClassVar

import pytest
import torch

from metrics.base import ClipMetric
from metrics.extractors.base import Extractor
from metrics.weights import WEIGHTS
from tests.tiny import HDTF
from thbench.config import names
from thbench.core.errors import UserError
from thbench.core.files import sha256
from thbench.core.types import Clip
from thbench.data import manifest
from thbench.data.media.video import VideoWriter, read
from thbench.evaluation import features, protocol, report, results
from thbench.evaluation.pairing import find_reference, pair_up
from thbench.evaluation.score import score, score_ground_truth
from thbench.leaderboard import rank

SIZE = 32


def frames(n=10, seed=0, size=SIZE):
    """Smooth moving pictures, which survive H.264."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator) * 200
    picture = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
    drift = torch.arange(n).float().view(n, 1, 1, 1) * 3
    return (picture + drift).clamp(0, 255).to(torch.uint8)


def save(path, video):
    with VideoWriter(path, *video.shape[-2:]) as writer:
        writer.write(video)


def fake_track(chunks):
    """Face features made from brightness, so that the whole chain runs without a face."""
    video = torch.cat(list(chunks))
    light = video.float().mean((1, 2, 3)) / 255
    zeros = torch.zeros(len(video), 6)
    zeros[:, 0] = light
    return {
        "landmarks": torch.zeros(len(video), 478, 3),
        "pose": zeros,
        "eyes": torch.full((len(video), 2), 0.3),
        "mouth": light,
        "valid": torch.full((len(video),), bool(light[0] > 0.02)),
    }


@pytest.fixture
def synthetic():
    return protocol.parse(
        "small", {**protocol.read_yaml(protocol.find("protocol", "synthetic")), "size": SIZE}
    )


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setattr(features, "track", fake_track)


@pytest.fixture
def folders(tmp_path):
    for i in range(4):
        save(tmp_path / "ref" / f"id{i}" / "a.mp4", frames(seed=i))
        save(tmp_path / "gen" / f"id{i}" / "a.mp4", (frames(seed=i).float() * 0.8).to(torch.uint8))
    return tmp_path


def run(folders, protocol, **kwargs):
    kwargs = {"run": "r", "strategy": "s", "progress": False, "cache": folders / "cache"} | kwargs
    return score(folders / "gen", folders / "ref", protocol, **kwargs)


def test_a_folder_is_scored(folders, synthetic):
    result = run(folders, synthetic)
    assert list(result.metrics) == [m.name for m in synthetic.build()]
    psnr = result.metrics["PSNR"]
    assert 15 < psnr.value < 30
    assert psnr.interval[0] < psnr.value < psnr.interval[1]
    assert (psnr.n, psnr.missing, psnr.direction, psnr.unit) == (4, 0, "higher", "dB")
    assert result.metrics["Mouth r"].value == pytest.approx(1, abs=0.01)
    amplitude = result.metrics["Mouth amplitude"]
    assert (amplitude.direction, amplitude.reference, amplitude.n) == ("reference", 1, 4)
    assert amplitude.value == pytest.approx(0.8, abs=0.05)
    assert result.metrics["FD-pyramid"].value > 10
    assert result.metrics["FD-pyramid"].extractors == ("pyramid-1",)
    assert result.metrics["Blink/s"].value == result.metrics["Blink/s"].reference == 0
    # No clip has a blink, so none has a duration of one.
    assert result.metrics["Blink duration"].value is None
    assert result.metrics["Blink duration"].missing == 4
    covered = dataclasses.replace(result.coverage, encodings={})
    assert covered == results.Coverage(expected=4, scored=4)
    assert result.protocol.hash == synthetic.hash
    assert [row.id for row in result.per_clip] == [f"id{i}/a" for i in range(4)]
    mean = math.fsum(row.metrics["PSNR"] for row in result.per_clip) / 4
    assert psnr.value == pytest.approx(mean, rel=1e-12)


def test_the_reference_against_itself_is_perfect(folders, synthetic):
    result = score(
        folders / "ref",
        folders / "ref",
        synthetic,
        run="r",
        strategy="s",
        progress=False,
        cache=folders / "cache",
    )
    assert result.metrics["PSNR"].value == 100
    assert result.metrics["FD-pyramid"].value == pytest.approx(0, abs=1e-3)
    assert result.metrics["Pose error"].value == 0


def test_a_second_scoring_decodes_nothing_and_agrees(folders, synthetic, monkeypatch):
    first = run(folders, synthetic)

    def refuse(*args, **kwargs):
        raise AssertionError("decoded again")

    monkeypatch.setattr(features.video, "chunks", refuse)
    second = run(folders, synthetic)
    assert second.metrics == first.metrics
    assert second.per_clip == first.per_clip


def test_a_damaged_cache_is_made_anew(folders, synthetic):
    first = run(folders, synthetic)
    for path in (folders / "cache").rglob("*.*"):
        path.write_bytes(b"PK\x03\x04")
    assert run(folders, synthetic).metrics == first.metrics


def test_a_changed_video_is_not_read_from_the_cache(folders, synthetic):
    before = run(folders, synthetic).metrics["PSNR"].value
    save(folders / "gen" / "id0" / "a.mp4", frames(seed=0))
    assert run(folders, synthetic).metrics["PSNR"].value > before + 3


def test_what_is_amiss_is_listed(folders, synthetic):
    gen = folders / "gen"
    save(gen / "stranger.mp4", frames())
    (gen / "id0" / "a.mp4").unlink()
    (gen / "id1" / "a.mp4").write_bytes(b"no video")
    save(gen / "id2" / "a.mp4", frames(1, seed=2))
    save(gen / "id3" / "a.mp4", torch.zeros(10, 3, SIZE, SIZE, dtype=torch.uint8))
    result = run(folders, synthetic)
    coverage = result.coverage
    assert coverage.unpaired == ("stranger",)
    assert coverage.absent == ("id0/a",)
    assert list(coverage.unreadable) == ["seed-0/id1/a"]
    assert str(folders) not in str(coverage.unreadable)
    assert (coverage.expected, coverage.scored, coverage.shorter) == (4, 2, 1)
    one_frame, no_face = result.per_clip
    assert one_frame.frames == 1
    assert one_frame.metrics["PSNR"] is not None
    assert one_frame.metrics["Blink/s"] is None
    assert no_face.metrics["Pose error"] is None
    assert no_face.metrics["PSNR"] is not None
    assert result.metrics["Pose error"].missing == 1


def test_oblong_videos_are_listed(folders, synthetic):
    save(folders / "gen" / "id0" / "a.mp4", frames()[..., :16, :])
    (reason,) = run(folders, synthetic).coverage.unreadable.values()
    assert "not square" in reason


def test_nothing_to_score_is_an_error(folders, synthetic, tmp_path):
    with pytest.raises(UserError, match="There is no folder"):
        score(tmp_path / "no", folders / "ref", synthetic, run="r", strategy="s")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="holds no clips"):
        score(folders / "gen", empty, synthetic, run="r", strategy="s")
    with pytest.raises(UserError, match=r"name them '<clip id>\.mp4'"):
        score(empty, folders / "ref", synthetic, run="r", strategy="s")
    for path in (folders / "gen").rglob("*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="None of the 4 pairs"):
        run(folders, synthetic)


def test_missing_weights_make_a_metric_unavailable(folders, synthetic, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folders / "nowhere"))
    content = {"size": SIZE, "metrics": [{"metric": "fid"}, {"metric": "psnr"}]}
    result = run(folders, protocol.parse("p", content))
    assert result.metrics["FID"].value is None
    assert "download https" in result.metrics["FID"].unavailable
    assert result.metrics["PSNR"].value > 0


def test_seeds_are_paired_with_one_reference(folders, synthetic):
    kwargs = {"run": "r", "strategy": "s", "progress": False, "cache": folders / "cache"}
    for seed in range(2):
        for i in range(4):
            source = folders / "gen" / f"id{i}" / "a.mp4"
            save(folders / "two" / f"seed-{seed}" / f"id{i}" / "a.mp4", read(source))
    two = score(folders / "two", folders / "ref", synthetic, **kwargs)
    assert two.seeds == (0, 1)
    assert (two.coverage.scored, two.coverage.expected) == (8, 4)
    # Of 80 generated and 40 reference frames the fewer are named.
    assert two.metrics["FD-pyramid"].notes[0].startswith("40 samples")
    assert {(row.id, row.seed) for row in two.per_clip} == {
        (f"id{i}/a", seed) for i in range(4) for seed in range(2)
    }


def test_only_wanted_seeds_are_paired(folders):
    there = {f"seed-{seed}/id{i}/a": folders / f"{seed}{i}" for seed in (0, 3) for i in (0, 1)}
    there |= {"seed-0/other": folders, "seed-3/other": folders}
    reference = {f"id{i}/a": folders for i in range(3)}
    pairs, unpaired, absent = pair_up(there, reference, (3,))
    assert [(p.id, p.seed) for p in pairs] == [("id0/a", 3), ("id1/a", 3)]
    assert unpaired == ["seed-3/other"]
    assert absent == ["id2/a"]
    assert len(pair_up(there, reference)[0]) == 4
    assert pair_up(there, reference, (7,))[2] == list(reference)


def test_limit_and_order(folders):
    whole = find_reference(folders / "ref")
    part = find_reference(folders / "ref", limit=2)
    assert list(part.videos) == ["id0/a", "id1/a"]
    assert part.data.digest == whole.data.digest
    assert part.data.clips != whole.data.clips
    pairs, _, absent = pair_up({"id1/a": folders, "id0/a": folders}, whole.videos)
    assert [p.id for p in pairs] == ["id0/a", "id1/a"]
    assert absent == ["id2/a", "id3/a"]


def test_a_prepared_data_set_is_a_reference(folders, synthetic):
    def clip(i, split):
        name = f"id{i}/a"
        path = folders / "ref" / f"{name}.mp4"
        return Clip(name, f"id{i}", split, 10, f"{name}.mp4", f"{name}.npz", sha256(path))

    manifest.write(folders / "ref", [clip(i, "test" if i else "train") for i in range(4)])
    result = run(folders, synthetic, data="mine")
    assert [row.id for row in result.per_clip] == ["id1/a", "id2/a", "id3/a"]
    assert result.coverage.unpaired == ("id0/a",)
    assert (result.data.name, result.data.split) == ("mine", "test")
    assert result.data.digest == manifest.digest(folders / "ref")
    with pytest.raises(UserError, match="holds no clips of split 'val'"):
        run(folders, synthetic, split="val")


@pytest.mark.real
def test_a_real_clip(clips, tmp_path, monkeypatch, synthetic):
    monkeypatch.undo()
    for name in ("gen", "ref"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").symlink_to(clips / HDTF)
    short = dataclasses.replace(synthetic, frames=12, size=224)
    result = run(tmp_path, short)
    assert result.per_clip[0].frames == 12
    assert result.metrics["Pose error"].value == 0
    assert result.metrics["Mouth r"].value == pytest.approx(1)
    store = features.FeatureStore({}, 128, 12, tmp_path / "cache")
    found = store.features(store.open(clips / HDTF), ["eyes", "valid", "waveform"], 12)
    assert found["valid"].all()
    assert 0.02 < found["eyes"].mean() < 0.6
    assert found["waveform"].shape == (12 * 640,)
    assert found["waveform"].abs().max() > 0.001


# Protocols


PROTOCOLS = {
    "dawn": "fid fvd fvd lse-c lse-d csim bas blinks dr dr",
    "diffused-heads": "fvd fid blinks blink-duration ofm f-mse av-offset av-confidence wer cpbd mse"
    " ssim psnr lmd",
    "fd2talk": "lse-c diversity diversity bas e-fid fid psnr ssim",
    "hallo": "fid fvd lse-c lse-d e-fid diversity",
    "stylegan-v": "fvd fid",
    "wav2lip": "lse-d lse-c fid",
}


@pytest.mark.parametrize("name", names("protocol"))
def test_protocols_in_configs_are_valid(name):
    loaded = protocol.load(name)
    assert loaded.name == name
    assert len(loaded.build()) == len(loaded.metrics)
    assert len(loaded.hash) == 12


def test_every_paper_has_its_metrics():
    """In the order of the papers' tables."""
    varied = {"dawn-whole", "dawn-followed", "dawn-256"}  # dawn's metrics, by its file
    found = {n for n in names("protocol") if not n.startswith("synthetic")}
    assert found == {*PROTOCOLS, *varied}
    assert all(protocol.load(n).metrics == protocol.load("dawn").metrics for n in varied)
    for name, wanted in PROTOCOLS.items():
        assert [m["metric"] for m in protocol.load(name).metrics] == wanted.split(), name
    dawn = {m["metric"]: m for m in protocol.load("dawn").metrics}
    assert dawn["fvd"]["window"] == 32
    assert dawn["dr"]["frames"] == 50
    heads = {m["metric"]: m for m in protocol.load("diffused-heads").metrics}
    published = ("blinks", "blink-duration", "ofm", "f-mse")
    assert all(heads[name]["mode"] == "as-published" for name in published)


def test_every_missing_file_of_every_protocol_can_be_pulled(monkeypatch, tmp_path):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.delenv("THBENCH_LIPREADER", raising=False)
    remedies = {}
    for name in PROTOCOLS:
        built = protocol.load(name).build()
        remedies |= features.build_extractors(built)[1]
    elsewhere = {"hopenet": "add an extractor", "lipreader": "THBENCH_LIPREADER"}
    elsewhere["landmark-expression"] = "thbench data morphable"
    assert {"inception", "syncnet", *elsewhere} <= set(remedies)
    for feature, remedy in remedies.items():
        pulled = re.match(r"run `thbench weights pull ([a-z0-9-]+)`", remedy)
        assert elsewhere[feature] in remedy if feature in elsewhere else pulled[1] in WEIGHTS


def test_synthetic_needs_no_downloads(monkeypatch, tmp_path):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    built = protocol.load("synthetic").build()
    assert features.build_extractors(built)[1] == {}
    for metric in built:
        metric.prepare()


def test_hash_follows_everything_that_changes_a_figure(synthetic, monkeypatch):
    base = {"size": SIZE, "metrics": [{"metric": "blinks"}, {"metric": "fd-pyramid"}]}
    first = protocol.parse("p", base)
    assert protocol.parse("q", {**base, "title": "another"}).hash == first.hash
    for change in (
        {"size": 64},
        {"frames": 10},
        {"seeds": [1]},
        {"pose": "generated"},
        {"metrics": [{"metric": "blinks", "height": 0.1}, {"metric": "fd-pyramid"}]},
    ):
        assert protocol.parse("p", {**base, **change}).hash != first.hash
    monkeypatch.setattr("metrics.extractors.pyramid.Pyramid.version", 99)
    assert protocol.parse("p", base).hash != first.hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sizes": 3}, r"no key 'sizes'\. Did you mean 'size'"),
        ({"metrics": [{"metric": "pnsr"}]}, r"No metric 'pnsr'\. Did you mean 'psnr'"),
        ({"metrics": [{"metric": "blinks", "hight": 1}]}, r"no option 'hight'.* 'height'"),
        ({"metrics": ["psnr"]}, "is written"),
        ({"metrics": []}, "names no metrics"),
        ({"metrics": [{"metric": "psnr"}] * 2}, "two metrics that are called 'PSNR'"),
        ({"size": 0}, "positive whole number"),
        ({"pose": "referance"}, "Did you mean 'reference'"),
        ({"intervals": {"draw": 3}}, "Did you mean 'draws'"),
        ({"own_motion": "note"}, "Did you mean 'noted'"),
        ({"timing": "first clip is warm-up"}, "timing is written {frames: 200"),
        ({"timing": {"frame": 3}}, "timing has no key 'frame'. Did you mean 'frames'"),
        ({"timing": {"repeats": 0}}, "repeats must be a positive whole number"),
        ({"timing": {"warmup": -1}}, "warmup must be a whole number or 0"),
        (
            {"metrics": [{"metric": "lse-c"}, {"metric": "av-confidence"}]},
            "'AV confidence' is always equal to 'LSE-C'",
        ),
        (
            {
                "metrics": [
                    {"metric": "av-confidence", "vshift": 9},
                    {"metric": "lse-c", "vshift": 9},
                ]
            },
            "'AV confidence .±9.' is always equal to 'LSE-C .±9.'",
        ),
        ({"metrics": [{"metric": "fid"}, {"metric": "e-fid"}]}, "is always equal to 'FID'"),
    ],
)
def test_wrong_protocols_are_explained(change, message):
    with pytest.raises(UserError, match=message):
        protocol.parse("p", {"size": SIZE, "metrics": [{"metric": "psnr"}], **change})


def test_metrics_that_are_always_equal_are_and_others_may_stand_together(folders):
    """What ``same_as`` says is so: both figures of the same clips."""
    both = ({"metric": "lse-c", "features": "synthetic-sync"},)
    both += ({"metric": "av-confidence", "features": "synthetic-sync"},)
    rules = [of(one) for one in both]
    (one,), (other,) = (rule.build() for rule in rules)
    assert other.same_as == one.name
    lips = torch.randn(30, 64, generator=torch.Generator().manual_seed(0))
    found = [m.measure({"synthetic-sync": lips}, None) for m in (one, other)]
    assert found[0] == found[1] > 0
    apart = {"metric": "av-confidence", "features": "synthetic-sync", "vshift": 9}
    assert len(of(both[0], apart).build()) == 2


# Own motion

MOVING = ({"metric": "bas"}, {"metric": "diversity"}, {"metric": "blinks"}, {"metric": "psnr"})


def led(folders, follows, **content):
    """Figures of clips that follow so much of the reference, and those over time."""
    metrics = [dict(spec) for spec in MOVING]
    block = {"frames": 4, "metrics": [{"metric": "diversity"}, {"metric": "psnr"}]}
    rule = protocol.parse("p", {"size": SIZE, "metrics": metrics, "over_time": block, **content})
    return run(folders, rule, follows=follows)


def test_motion_that_clips_follow_is_no_figure_of_the_strategy(folders):
    free = led(folders, ())
    assert not any(figure.unavailable for figure in free.metrics.values())
    for follows, absent in (
        ({"pose"}, {"BAS (pose)", "Diversity (pose)"}),
        ({"eyes"}, {"Blink/s"}),
        ({"pose", "eyes"}, {"BAS (pose)", "Diversity (pose)", "Blink/s"}),
    ):
        found = led(folders, follows)
        assert {n for n, f in found.metrics.items() if f.unavailable} == absent
        assert all(found.metrics[name].value is None for name in absent)
        assert "PSNR" not in found.over_time_unavailable
        assert ("Diversity (pose)" in found.over_time_unavailable) == ("pose" in follows)
        assert found.metrics["PSNR"] == free.metrics["PSNR"]
    assert (
        "follow the reference's head motion"
        in led(folders, {"pose"}).metrics["BAS (pose)"].unavailable
    )


def test_motion_that_clips_follow_is_noted_where_the_protocol_says_so(folders):
    free, noted = led(folders, ()), led(folders, {"pose"}, own_motion="noted")
    name = "Diversity (pose)"
    assert noted.metrics[name].value == free.metrics[name].value > 0
    assert noted.metrics[name].notes == (
        "of the reference's own head motion, which the clips follow",
    )
    assert noted.metrics["Blink/s"].notes == noted.metrics["PSNR"].notes == ()
    assert "BAS (pose), Diversity (pose): of the reference's own head motion" in "\n".join(
        report.lines(noted)
    )
    (table,) = rank.tables_of([noted])
    assert any(
        "BAS (pose), Diversity (pose): of the reference's own" in note for note in table.notes
    )


def test_every_protocol_says_what_becomes_of_motion_that_clips_follow():
    """In the papers' tables a column of motion is the model's own."""
    said = {"synthetic": "noted", "fd2talk": "generated"}
    followed = ("synthetic-64-followed", "synthetic-64-long", "dawn-followed")
    said |= dict.fromkeys(followed, "noted")
    for name in names("protocol"):
        content = protocol.read_yaml(protocol.find("protocol", name))
        kinds = [protocol.metric_registry.load(spec["metric"]) for spec in content["metrics"]]
        if content["pose"] == "reference" and any(kind.own_motion for kind in kinds):
            assert content["own_motion"] == said.pop(name)
    assert not said
    part = protocol.load("fd2talk").of_own_motion({"pose"})
    assert [m.name for m in part.build()] == [
        "Diversity (hopenet)", "Diversity (pose)", "BAS (pose)"
    ]  # fmt: skip
    assert part.pose == "generated"
    assert protocol.load("fd2talk").of_own_motion(()) is None
    assert protocol.load("synthetic").of_own_motion({"pose"}) is None
    assert protocol.load("dawn").of_own_motion({"pose"}) is None


# Experts of drawn faces

DRAWN = ({"metric": "fd-synthetic"}, {"metric": "csim", "features": "synthetic-identity"})
DRAWN += ({"metric": "psnr"},)


def test_experts_of_drawn_faces_refuse_recordings_unless_the_protocol_is_named(folders):
    block = {"frames": 4, "metrics": [dict(DRAWN[1])]}
    rule = protocol.parse("p", {"size": SIZE, "metrics": [*DRAWN], "over_time": block})
    drawn = ["FD-synthetic", "CSIM (synthetic-identity)"]
    refused = run(folders, rule, named=False)
    assert [n for n, f in refused.metrics.items() if f.unavailable] == drawn
    assert "knows drawn faces only" in refused.metrics[drawn[0]].unavailable
    assert list(refused.over_time_unavailable) == [drawn[1]]
    named = run(folders, rule)
    for name in drawn:
        assert named.metrics[name].value is not None
        assert any("knows drawn faces only" in note for note in named.metrics[name].notes)
    assert named.metrics["PSNR"].notes == ()
    assert named.metrics["PSNR"] == refused.metrics["PSNR"]
    truth = score_ground_truth(
        folders / "ref", rule, named=False, cache=folders / "cache", progress=False
    )
    assert truth.metrics[drawn[1]].unavailable


def test_experts_of_drawn_faces_measure_drawn_faces_without_a_word(folders):
    def clip(i, **extra):
        name = f"id{i}/a"
        digest = sha256(folders / "ref" / f"{name}.mp4")
        return Clip(name, f"id{i}", "test", 10, f"{name}.mp4", f"{name}.npz", digest, extra)

    rule = protocol.parse("p", {"size": SIZE, "metrics": [*DRAWN]})
    for extra, drawn in (({"truth": "x.npz"}, True), ({"source": "x"}, False)):
        manifest.write(folders / "ref", [clip(i, **extra) for i in range(4)])
        assert protocol.default(folders / "ref", "dawn") == ("synthetic" if drawn else "dawn")
        found = run(folders, rule, named=False).metrics["FD-synthetic"]
        assert (found.value is not None) == drawn
        assert not any("drawn faces" in note for note in found.notes)


def test_what_experts_of_drawn_faces_measure_carries_their_name():
    rule, found = protocol.load("synthetic"), 0
    for metric in (*rule.build(), *rule.over_time.build()):
        drawn = features.domain_of(metric) == "synthetic"
        assert drawn == ("synthetic" in metric.name)
        found += drawn
    assert found > 6
    for name, domain in (("arcface", ""), ("synthetic-identity", "synthetic")):
        assert protocol.extractor_registry.load(name).domain == domain
    named = [name for name in protocol.extractor_registry if name.startswith("synthetic")]
    assert all(protocol.extractor_registry.load(name).domain == "synthetic" for name in named)


# Generating a split


def of(*metrics):
    """A protocol of these metrics alone."""
    return protocol.parse("few", {"size": SIZE, "metrics": list(metrics)})


def test_metrics_whose_networks_are_missing_say_what_to_do(folders, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(folders / "nothing"))
    wanted = of(
        {"metric": "fvd", "window": 9},
        {"metric": "fvd", "window": 9, "mode": "tats"},
        {"metric": "lpips"},
        {"metric": "diversity", "mode": "hopenet"},
        {"metric": "e-fid", "mode": "coefficients", "feature": "deca", "dim": 50},
        {"metric": "dr", "frames": 3, "feature": "pyramid"},
        {"metric": "mse"},
    )
    figures = run(folders, wanted).metrics
    reasons = [f.unavailable for f in figures.values()]
    expected = ["i3d-torchscript", "i3d-kinetics400", "lpips-alexnet", "'hopenet'", "'deca'"]
    for reason, part in zip(reasons[:5], expected, strict=True):
        assert part in reason
        assert "nothing/" not in reason
    assert all(f.value is None for f in list(figures.values())[:5])
    assert reasons[5:] == [None, None]
    assert figures["DR3 (pyramid)"].value is not None
    assert figures["DR3 (pyramid)"].extractors == ("pyramid-1",)
    assert 0 < figures["MSE"].value < 65025


class Recipe(Extractor):
    """Windows of a width that is an option."""

    name = "recipe"
    seen: ClassVar[list[int]] = []

    def __init__(self, device="cpu", width=2):
        super().__init__(device)
        self.width = width

    @property
    def fingerprint(self):
        return f"{super().fingerprint}-{self.width}"

    def extract(self, frames, given=None):
        self.seen.append(self.width)
        return self.forward(torch.cat(list(frames))).unfold(0, self.width, self.width).mean(1, True)

    def forward(self, frames):
        return frames.float().mean((1, 2, 3))


class Width(ClipMetric):
    """The number of windows."""

    direction = "higher"

    def __init__(self, width=2, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.needs = (f"recipe-{width}",)
        self.recipes = {f"recipe-{width}": ("recipe", {"width": width})}

    @property
    def name(self):
        return f"Width {self.width}"

    def measure(self, generated, reference):
        return len(generated[self.needs[0]])


def test_a_metric_may_ask_an_extractor_for_options_of_its_own(folders, monkeypatch):
    monkeypatch.setitem(protocol.metric_registry._targets, "width", f"{__name__}:Width")
    monkeypatch.setitem(protocol.extractor_registry._targets, "recipe", f"{__name__}:Recipe")
    monkeypatch.setattr(Recipe, "seen", [])
    wanted = of({"metric": "width", "width": 2}, {"metric": "width", "width": 5})
    first = run(folders, wanted)
    assert [f.value for f in first.metrics.values()] == [5, 2]
    assert [f.extractors for f in first.metrics.values()] == [
        (f"recipe-{__name__}:Recipe-1-2",),
        (f"recipe-{__name__}:Recipe-1-5",),
    ]
    assert sorted(set(Recipe.seen)) == [2, 5]
    before = len(Recipe.seen)
    assert [f.value for f in run(folders, wanted).metrics.values()] == [5, 2]
    assert len(Recipe.seen) == before
    monkeypatch.setattr(Recipe, "version", 2)
    assert of({"metric": "width"}).hash != of({"metric": "width", "width": 5}).hash
    assert of({"metric": "width", "width": 2}, {"metric": "width", "width": 5}).hash != wanted.hash


def test_figures_over_time_are_kept_by_clip_and_again_from_the_cache(folders, synthetic):
    block = {"frames": 4, "metrics": [{"metric": "psnr"}, {"metric": "fd-pyramid"}]}
    followed = protocol.parse(
        "small", {"size": SIZE, "metrics": [{"metric": "ssim"}], "over_time": block}
    )
    first, again = (run(folders, followed) for _ in range(2))
    assert first.over_time == again.over_time
    psnr = first.over_time["PSNR"]
    assert psnr.clips == (4, 4)
    rows = [row.over_time["PSNR"] for row in first.per_clip]
    assert psnr.values[1] == pytest.approx(sum(row[1] for row in rows) / 4)
    assert len(first.over_time["FD-pyramid"].values) == 2
    assert list(first.metrics) == ["SSIM"]
