"""Intervals and the reference's share in a result, on planted features in place of videos."""

import dataclasses
from pathlib import Path

import pytest
import torch

from metrics.base import ClipMetric
from metrics.extractors.base import Extractor
from metrics.frechet import FrechetMetric, frechet_distance
from metrics.intervals import bootstrap_mean, jackknife
from metrics.kid import KID
from thbench.evaluation import protocol
from thbench.evaluation.availability import Availability
from thbench.evaluation.clip_values import ClipMeter, ClipValues, ValueCache
from thbench.evaluation.intervals import clip_means
from thbench.evaluation.pairing import Pair
from thbench.evaluation.protocol import Intervals
from thbench.evaluation.results import ClipRow
from thbench.evaluation.scorer import Scorer
from thbench.evaluation.selection import select
from thbench.evaluation.set_features import SetFeatures

CLIPS, DIM = 6, 2


class Planted(Extractor):
    name = "planted"

    def forward(self, frames):
        raise AssertionError("features are given here")


class Distance(FrechetMetric):
    feature, dim, needs = "planted", DIM, ("planted",)
    name = "Distance"


class Share(ClipMetric):
    """The first number of a clip."""

    direction = "higher"
    bounds = (0.0, 1.0)
    needs = ("planted",)
    name = "Share"

    def measure(self, generated, reference):
        return float(generated["planted"][0, 0])


class Gap(ClipMetric):
    """What the first number is more than the reference's."""

    direction = "zero"
    needs = ("planted",)
    name = "Gap"

    def measure(self, generated, reference):
        return float(generated["planted"][0, 0] - reference["planted"][0, 0])


class Store:
    """Features by path in place of a ``FeatureStore``."""

    def __init__(self, rows):
        self.rows, self.extractors = rows, {}

    def open(self, path):
        return dataclasses.make_dataclass("Video", ["digest"])(str(path))

    def length(self, video):
        return len(self.rows[video.digest])

    def damaged(self, video, length):
        return 0

    def features(self, video, wanted, length):
        return {"planted": self.rows[video.digest][:length]}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    for registry, kind in (
        (protocol.metric_registry, Distance),
        (protocol.metric_registry, Share),
        (protocol.metric_registry, Gap),
        (protocol.extractor_registry, Planted),
    ):
        monkeypatch.setitem(registry._targets, kind.__name__.lower(), f"{__name__}:{kind.__name__}")


def rows(seed, shift=0.0):
    drawn = torch.rand(9, DIM, generator=torch.Generator().manual_seed(seed))
    return drawn.double() + shift


def clip_rows(seed=0):
    """Features of generated clips, by id."""
    return {f"c{i}": rows(100 * seed + i, 0.1 * i) / 2 for i in range(CLIPS)}


REFERENCES = {f"c{i}": rows(1000 + i) for i in range(CLIPS)}


def scored(folder, *seeds, metric="distance", **intervals):
    """The figure of a metric over clips that were generated once for each of ``seeds``."""
    rule = protocol.parse("p", {"size": 16, "metrics": [{"metric": metric}]})
    rule = dataclasses.replace(rule, intervals=Intervals(**intervals))
    planted = {f"ref/{name}": value for name, value in REFERENCES.items()}
    pairs = []
    for seed, clips in enumerate(seeds):
        planted |= {f"{seed}/{name}": value for name, value in clips.items()}
        pairs += [Pair(n, seed, Path(f"{seed}/{n}"), Path(f"ref/{n}")) for n in clips]
    scorer = Scorer(rule, folder)
    scorer.store = Store(planted)
    scorer.add_all(sorted(pairs, key=lambda p: (p.id, p.seed)), progress=False)
    (figure,) = scorer.metric_values().values()
    return figure


def distance(clips, ids):
    both = [torch.cat([of[name] for name in ids]) for of in (clips, REFERENCES)]
    return float(frechet_distance(*both))


@pytest.mark.parametrize("groups", [3, 10])
def test_the_interval_of_a_set_leaves_out_each_group_of_clips_in_turn(tmp_path, groups):
    clips = clip_rows()
    figure = scored(tmp_path, clips, groups=groups, confidence=0.8)
    names, n = sorted(clips), min(groups, CLIPS)
    left_out = [distance(clips, [k for k in names if k not in names[g::n]]) for g in range(n)]
    whole = distance(clips, names)
    low, high = jackknife(whole, left_out, 0.8)
    assert figure.value == pytest.approx(whole)
    assert figure.interval == pytest.approx((max(0, low), high))
    assert high - whole > 0.01 * whole  # leaving clips out makes a difference here


def test_a_second_seed_that_says_the_same_makes_no_interval_narrower(tmp_path):
    """Clips are drawn and left out whole: their seeds are not independent."""
    for metric, groups in (("distance", 6), ("distance", 4), ("share", 10)):
        folder = tmp_path / f"{metric}-{groups}"
        once = scored(folder, clip_rows(), metric=metric, groups=groups).interval
        twice = scored(folder, clip_rows(), clip_rows(), metric=metric, groups=groups).interval
        assert twice[1] - twice[0] == pytest.approx(once[1] - once[0], rel=0.05), metric


def test_a_clip_s_seeds_are_averaged_before_clips_are_drawn(tmp_path):
    first, second = clip_rows(1), clip_rows(2)
    for i, name in enumerate(first):
        first[name], second[name] = (torch.full((9, DIM), (i + s) / 9).double() for s in (0, 3))
    figure = scored(tmp_path, first, second, metric="share", confidence=0.7, draws=50)
    assert figure.value == pytest.approx(sum(i + 1.5 for i in range(CLIPS)) / 9 / CLIPS)
    means = [(i + 1.5) / 9 for i in range(CLIPS)]
    assert figure.interval == pytest.approx(bootstrap_mean(means, 0.7, 50))


def test_the_reference_counts_once_however_many_seeds_there_are(tmp_path):
    seeds = [clip_rows(s) for s in (1, 2, 3)]
    made = torch.cat([value for clips in seeds for value in clips.values()])
    expected = frechet_distance(made, torch.cat(list(REFERENCES.values())))
    assert scored(tmp_path, *seeds).value == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("metric", ["distance", "share"])
def test_intervals_are_as_the_protocol_says(tmp_path, metric):
    def width(**how):
        low, high = scored(tmp_path, clip_rows(), metric=metric, **how).interval
        return high - low

    assert width(confidence=0.5) < 0.8 * width(confidence=0.95)
    if metric == "share":
        assert width(draws=1) == 0 < width(draws=1000)
    else:
        assert width(groups=3) != width(groups=6)


@pytest.mark.parametrize(("metric", "bound"), [("distance", 0.0), ("share", 1.0)])
def test_no_interval_reaches_beyond_what_a_figure_can_be(tmp_path, metric, bound):
    """Clips like the reference's but one; shares of 1 and, out of bounds, of 3."""
    clips = dict(REFERENCES)
    clips["c0"] = clips["c0"] + 2.0
    if metric == "share":
        clips = {name: torch.ones(9, DIM).double() * (3 if name == "c0" else 0.5) for name in clips}
    assert bound in scored(tmp_path, clips, metric=metric).interval


def test_values_are_kept_by_pair_protocol_and_weights(tmp_path, monkeypatch):
    """Each change of one of them measures anew, and nothing else does."""
    value = 0.0

    def gap(generated="gen/a", reference="ref/a", size=16):
        rule = protocol.parse("p", {"size": size, "metrics": [{"metric": "gap"}]})
        scorer = Scorer(rule, tmp_path)
        planted = {generated: value, reference: 0.0}
        scorer.store = Store({k: torch.full((9, DIM), v) for k, v in planted.items()})
        scorer.add(Pair("a", 0, Path(generated), Path(reference)))
        return scorer.metric_values()["Gap"].value

    assert gap() == 0
    for value, change in enumerate(
        ({"generated": "gen/another"}, {"reference": "ref/another"}, {"size": 32}), 1
    ):
        assert gap() == 0  # kept
        assert gap(**change) == value
    value = 9.0
    monkeypatch.setattr(Planted, "digest", "other weights")
    assert gap() == 9


def test_metrics_are_sorted_by_how_they_are_measured():
    share, distance = Share(), Distance()
    followed = [(share, {"metric": "share"}), (distance, {"metric": "distance"})]
    chosen = select([distance, share], followed, lambda m: True, reference_free=False)
    assert (chosen.clips, chosen.sets) == ([share], [distance])
    assert (chosen.clip_bins, chosen.set_bins) == ([share], followed[1:])
    assert chosen.needs == ["planted"]
    alone = select([distance, share], followed, lambda m: True, reference_free=True)
    assert (alone.clips, alone.sets, alone.set_bins, alone.set_needs) == ([share], [], [], [])
    none = select([distance, share], followed, lambda m: False, reference_free=False)
    assert none.needs == []


def test_the_first_reason_against_a_metric_is_told():
    gap = Gap()
    assert Availability().has(gap)
    assert Availability(missing={"other": "get it"}).has(gap)
    lacking = Availability(missing={"planted": "get it"}, unprepared={"Gap": "load it"})
    assert lacking.reason(gap) == "get it"
    assert Availability(unprepared={"Gap": "load it"}).reason(gap) == "load it"

    class Nod(Gap):
        own_motion = "pose"

    assert "the clips follow the reference's head motion" in Availability(
        missing={"planted": "get it"}, follows=["pose"]
    ).reason(Nod())
    noted = Availability(follows=["pose"], own_motion="noted")
    assert noted.has(Nod())
    assert list(noted.cautions(Nod())) == [
        "of the reference's own head motion, which the clips follow"
    ]
    assert list(noted.cautions(gap)) == []


def test_values_come_back_from_their_file_and_a_damaged_one_is_none(tmp_path):
    meter = ClipMeter([Gap()], [Share()], 25)
    cache = ValueCache(tmp_path, meter, "hash", ["planted-1"], reference_free=False)
    key = cache.key(["a", "b"], 9)
    assert cache.read(key) is None
    cache.write(key, ClipValues({"Gap": (1.5, float("nan"))}, {"Share": [0.5, float("nan")]}))
    found = cache.read(key)
    assert found.values["Gap"] == pytest.approx((1.5, float("nan")), nan_ok=True)
    assert found.bins["Share"] == pytest.approx([0.5, float("nan")], nan_ok=True)
    others = (
        ValueCache(tmp_path, meter, "other", ["planted-1"], reference_free=False),
        ValueCache(tmp_path, meter, "hash", ["planted-2"], reference_free=False),
        ValueCache(tmp_path, meter, "hash", ["planted-1"], reference_free=True),
        ValueCache(tmp_path, ClipMeter([], [Share()], 25), "hash", ["planted-1"], False),
    )
    keys = {key, cache.key(["b", "a"], 9), cache.key(["a", "b"], 8)}
    assert len(keys | {other.key(["a", "b"], 9) for other in others}) == 7
    (path,) = tmp_path.rglob("*.json")
    path.write_text("{}")
    assert cache.read(key) is None


def test_sets_hold_what_is_needed_and_each_reference_once():
    sets = SetFeatures(["planted"])
    for clip in ("a", "a", "b"):
        sets.add(clip, {"planted": rows(1), "frames": 0}, {"planted": rows(2), "frames": 0})
    assert [set(generated) for _, generated, _ in sets.clips] == [{"planted"}] * 3
    assert [reference is None for _, _, reference in sets.clips] == [False, True, False]
    assert len(list(sets.leave_out(Distance, groups=10))) == 2  # ids


@pytest.mark.parametrize("make", [Distance, lambda: KID("planted")])
def test_a_value_without_a_group_is_that_of_the_other_clips_alone_and_clips_count_once(make):
    taken, sets = [], SetFeatures(["planted"])
    for k in range(CLIPS):
        sets.add(f"{k // 2}", {"planted": rows(k)}, {"planted": rows(k + 100)})

    def counting():
        metric = make()
        update = metric.update
        metric.update = lambda *clip: taken.append(1) or update(*clip)
        return metric

    found = list(sets.leave_out(counting, groups=3))
    assert len(taken) == CLIPS
    for group, value in enumerate(found):
        alone = make()
        for clip, generated, reference in sets.clips:
            if clip != str(group):
                alone.update(generated, reference)
        assert value == pytest.approx(float(alone.compute()))
    assert len(set(found)) == 3


def test_a_clip_s_mean_is_over_its_seeds_that_have_a_value():
    values = (("a", 1.0), ("a", 2.0), ("b", None), ("b", 4.0), ("c", None))
    clips = [ClipRow(name, metrics={"M": value}) for name, value in values]
    assert clip_means(clips, "M") == [1.5, 4.0]
