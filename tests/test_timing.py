"""Time and memory as a protocol says: which runs, of which clip, and what is kept."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.leaderboard.rows import result
from tests.test_predict import TRAINER, Asked
from tests.toys import Counting, request
from thbench.core.hardware import hardware
from thbench.core.types import Cost
from thbench.evaluation import timing
from thbench.evaluation.protocol import Timing
from thbench.evaluation.report import lines
from thbench.evaluation.results import TimingSummary, read, write
from thbench.generation.runner import generate
from thbench.leaderboard.rank import tables_of

BIG = 60_000_000


class Heavy(Counting):
    """Holds so many bytes while it decodes."""

    bytes = BIG

    def decode(self, latents, frames, conditions):
        held = np.ones(self.bytes, np.uint8)  # every page written
        return super().decode(latents, frames, conditions) + 0 * float(held[-1])


def toy(kind=Counting):
    return kind({"name": "nar"}, steps=2)


def measured(folder, rule, strategy=None, asked=None, run="r", **trainer):
    return timing.time_generation(
        strategy or toy(),
        asked or Asked(),
        rule,
        dataclasses.replace(TRAINER, **trainer),
        device="cpu",
        run=run,
        folder=folder,
    )


@pytest.fixture
def runs(monkeypatch):
    """Lengths and ids of the clips that are made; run k takes ``seconds[k]``."""
    made, seconds = [], [99.0, 1.0, 5.0, 2.0, 99.0, 3.0, 4.0, 8.0]

    def run(strategy, asked):
        list(generate(strategy, asked).chunks)
        made.append((asked.id, asked.n_frames))
        k = len(made) - 1
        return Cost(seconds=seconds[k], first_frame=seconds[k] / 10)

    monkeypatch.setattr(timing, "_run", run)
    return made


def test_the_median_of_the_runs_after_the_warm_up_counts(runs, tmp_path):
    found = measured(tmp_path, Timing(frames=15, clips=2, warmup=1, repeats=3))
    assert runs == [("a", 15)] * 4 + [("x/b", 15)] * 4
    assert (found.seconds, found.first_frame) == (3.5, 0.35)  # of 1 5 2 and 3 4 8
    assert (found.frames, found.clips, found.warmup, found.repeats) == (15, 2, 1, 3)
    assert found.hardware == hardware("cpu")


def test_without_frames_a_clip_has_its_own_length_and_there_may_be_no_warm_up(runs, tmp_path):
    found = measured(tmp_path, Timing(frames=None, clips=9, warmup=0, repeats=1))
    assert runs == [("a", 6), ("x/b", 6), ("c.d", 6)]
    assert found.clips == 3


def test_what_was_measured_is_not_measured_again(runs, tmp_path):
    rule = Timing(frames=4, repeats=1)
    first = measured(tmp_path, rule)
    assert measured(tmp_path, rule) == first
    assert len(runs) == 2
    (path,) = tmp_path.glob("timing-*.json")
    path.write_text("{")  # damaged: made anew
    measured(tmp_path, rule)
    assert json.loads(path.read_text())["frames"] == 4
    assert len(runs) == 4


@pytest.mark.parametrize(
    "change",
    [{"rule": Timing(frames=5, repeats=1)}, {"run": "other"}, {"frames_per_call": 2}],
    ids=str,
)
def test_another_run_rule_or_setting_is_measured_by_itself(runs, tmp_path, change):
    kept = {"rule": Timing(frames=4, repeats=1)}
    measured(tmp_path, **kept)
    measured(tmp_path, **{**kept, **change})
    assert len(runs) == 4


def test_other_hardware_is_measured_by_itself(runs, tmp_path, monkeypatch):
    measured(tmp_path, Timing(repeats=1))
    monkeypatch.setattr(timing, "hardware", lambda device: "another")
    assert measured(tmp_path, Timing(repeats=1)).hardware == "another"
    assert len(runs) == 4


@pytest.mark.parametrize("n", [3, 6, 20])
def test_a_sound_is_cut_or_repeated_with_the_motion_to_follow(n):
    asked = request(6)
    asked.waveform = torch.arange(6 * 640).float()
    asked.pose, asked.eyes = torch.rand(6, 6), torch.rand(6, 2)
    longer = timing.extended(asked, n)
    at = torch.arange(n) % 6
    assert torch.equal(longer.audio, asked.audio[at])
    assert torch.equal(longer.pose, asked.pose[at])
    assert torch.equal(longer.eyes, asked.eyes[at])
    assert torch.equal(longer.waveform, torch.arange(n * 640).float() % (6 * 640))
    assert timing.extended(request(6), n).pose is None
    assert timing.extended(asked, None) is asked


def test_real_time_and_memory_of_one_process_are_told(tmp_path):
    rule = Timing(frames=2, warmup=0, repeats=1)
    heavy = measured(tmp_path / "heavy", rule, toy(Heavy))
    assert 0 < heavy.first_frame <= heavy.seconds < 60
    assert heavy.memory_is == timing.RISE
    assert 0.9 * BIG < heavy.memory < 3 * BIG
    # What another run used before does not count.
    assert measured(tmp_path / "light", rule).memory < 0.5 * BIG


def test_where_the_kernel_cannot_forget_a_peak_there_is_no_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(timing.Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(13)))
    with timing._peak(torch.device("cpu")) as peak:
        assert peak.read() == (None, "")


TIMED = TimingSummary(7.32, 1.2, 200.0, "V100", 1, 1, 5, 3_100_000_000, timing.CUDA)


def test_a_result_shows_them_and_an_older_one_is_still_read(tmp_path):
    made = dataclasses.replace(result("a", seconds=1.0), timed=TIMED)
    path = write(made, tmp_path)
    assert read(path) == made
    text = "\n".join(lines(made))
    assert "by the protocol: 7.32 s for 200 frames, the first after 1.20 s" in text
    assert "median of 5 runs after 1 warm-up, audio encoded before; V100); 3.10 GB (CUDA" in text
    old = json.loads(path.read_text())
    del old["timed"], old["sha256"]
    path.write_text(json.dumps(old))
    assert read(path).timed is None


def test_tables_have_them_beside_the_costs_and_rank_them_on_one_machine():
    def table(other):
        times = (TIMED, dataclasses.replace(TIMED, seconds=9.0, memory=2_000_000_000, **other))
        rows = [result(n, fd=d, seconds=1.0) for n, d in (("a", 1.0), ("b", 2.0))]
        both = [dataclasses.replace(r, timed=t) for r, t in zip(rows, times, strict=True)]
        (found,) = tables_of([*both, result("c", fd=3.0)])
        return found

    same = table({})
    marks = {name: [row.cells.get(name) and row.cells[name].mark for row in same.rows]
             for name in ("Timed (s)", "Peak memory (GB)")}  # fmt: skip
    assert marks == {"Timed (s)": ["best", "second", None],
                     "Peak memory (GB)": ["second", "best", None]}  # fmt: skip
    assert same.rows[0].cells["Timed frames"].value == 200
    assert same.rows[0].cells["Time (s)"].value == 1.0
    assert same.facts["Timed"].startswith("median of 5 runs")
    assert same.facts["Peak memory"] == timing.CUDA
    for other in ({"hardware": "CPU"}, {"frames": 100.0}, {"memory_is": timing.RISE}):
        assert all(row.cells["Timed (s)"].mark == "" for row in table(other).rows[:2])
