"""Videos on the disk: what they carry, when they count as done, and how an interrupted run ends."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import FRAMES, NOISE, command, env, thbench
from tests.toys import Counting, request
from thbench.cli.parser import main
from thbench.config import TrainerConfig
from thbench.core import hardware
from thbench.core.errors import UserError
from thbench.core.types import Cost, Generation
from thbench.data.media import audio, video
from thbench.dawn.dawn import DAWN
from thbench.evaluation.costs import summarize_costs
from thbench.generation import runner
from thbench.generation.execution import generate_split
from thbench.generation.writer import ClipWriter, mark, tags_of, write_video

TRAINER = TrainerConfig(accelerator="cpu", devices=1, progress=False)


class Asked(torch.utils.data.Dataset):
    """Requests by name; it notes which were made."""

    def __init__(self, names=("a", "x/b", "c.d"), seeds=(0,), fail_at=None):
        self.wanted = [(name, seed) for seed in seeds for name in names]
        self.fail_at = fail_at
        self.made = []

    def __len__(self):
        return len(self.wanted)

    def name(self, index):
        return self.wanted[index]

    def __getitem__(self, index):
        name, seed = self.wanted[index]
        if name == self.fail_at:
            raise UserError("no more")
        self.made.append(name)
        return request(6, id=name, seed=seed)


def toy():
    return Counting({"name": "nar"}, steps=2)


def generation(n=6, frames=None, size=8):
    def chunks(cost):
        made = torch.full((n if frames is None else frames, 3, size, size), 90).to(torch.uint8)
        yield from made.split(4) if len(made) else ()
        cost.seconds = 2.0

    cost = Cost(calls=3, evaluations=18)
    return Generation(request(n, size=size), chunks(cost), cost)


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def clips(folder):
    return {name: data for name, data in contents(folder).items() if name.endswith(".mp4")}


# One video


def test_a_video_says_that_it_is_synthetic(tmp_path):
    write_video(tmp_path / "new" / "o.mp4", generation(), tags_of("dawn", "run-1", 7))
    tags = video.read_metadata(tmp_path / "new" / "o.mp4")
    assert (tags["synthetic"], tags["strategy"]) == ("true", "dawn")
    assert (tags["run"], tags["seed"]) == ("run-1", "7")
    assert tags["generator"].startswith("thbench ")


@pytest.mark.parametrize("frames", [0, 5, 7])
def test_a_wrong_number_of_frames_leaves_nothing(frames, tmp_path):
    (tmp_path / "o.mp4").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="of the 6 requested"):
        write_video(tmp_path / "o.mp4", generation(frames=frames), {})
    assert contents(tmp_path) == {"o.mp4": b"old"}


def test_a_failure_in_mid_video_leaves_nothing(tmp_path):
    def broken():
        yield torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(tmp_path / "o.mp4", Generation(request(6), broken(), Cost()), {})
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("size", [64, 128, 256])
def test_the_watermark_stays_in_its_corner(size):
    plain = torch.full((2, 3, size, size), 120, dtype=torch.uint8)
    marked = mark(plain)
    assert marked.dtype == torch.uint8
    changed = (marked != plain).any(1)[0].nonzero()
    assert changed[:, 0].min() > 0.75 * size
    assert (marked > 200).float().mean() > 0.002
    assert torch.equal(marked[0], marked[1])


def test_a_frame_that_is_too_small_for_a_mark_is_refused():
    with pytest.raises(UserError, match="8x8 are too small for a watermark"):
        mark(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


# A split


def test_each_clip_has_a_line_that_vouches_for_it(tmp_path):
    asked = Asked(seeds=(0, 2))
    writer = ClipWriter(tmp_path, "toy", "r1")
    assert generate_split(toy(), asked, writer, TRAINER)
    found = contents(tmp_path)
    assert sorted(found) == sorted(
        f"seed-{seed}/{name}{suffix}"
        for seed in (0, 2)
        for name in ("a", "x/b", "c.d")
        for suffix in (".mp4", ".json")
    )
    record = json.loads(found["seed-2/c.d.json"])
    assert (record["id"], record["seed"], record["run"]) == ("c.d", 2, "r1")
    assert (record["frames"], record["cost"]["calls"]) == (6, 2)
    assert [json.loads(found[f"seed-0/{n}.json"])["warm"] for n in ("a", "x/b")] == [False, True]
    summary = summarize_costs([writer.path(*name) for name in asked.wanted])
    assert (summary.clips, summary.frames, summary.depth, summary.calls) == (5, 6, 2, 2)
    assert summarize_costs([tmp_path / "none.mp4"]) is None


def test_costs_are_the_means_of_each_kind(tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    for seed, cost in enumerate([Cost(1, 2, 3), Cost(5, 7, 11), Cost(7, 9, 15)]):
        made = generation()
        writer(Generation(request(6, seed=seed), made.chunks, cost), "cpu")
    summary = summarize_costs([writer.path("a", seed) for seed in range(3)])
    # The first of a session pays for warming up and is left out.
    assert (summary.depth, summary.calls, summary.evaluations, summary.clips) == (6, 8, 13, 2)


def test_what_is_done_is_not_made_again(tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    generate_split(toy(), Asked(), writer, TRAINER)
    before = contents(tmp_path)
    again = Asked()
    assert generate_split(toy(), again, writer, TRAINER)
    assert again.made == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[1]"),
    ],
    ids=["cut", "gone", "no line", "half a line", "another line"],
)
def test_a_damaged_clip_is_made_again(spoil, tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    generate_split(toy(), Asked(), writer, TRAINER)
    before = clips(tmp_path)
    spoil(writer.path("a", 0))
    again = Asked()
    generate_split(toy(), again, writer, TRAINER)
    assert again.made == ["a"]
    assert clips(tmp_path) == before


def test_clips_of_another_run_are_made_again(tmp_path):
    generate_split(toy(), Asked(), ClipWriter(tmp_path, "toy", "r1"), TRAINER)
    again = Asked()
    generate_split(toy(), again, ClipWriter(tmp_path, "toy", "r2"), TRAINER)
    assert again.made == ["a", "x/b", "c.d"]


def test_a_clip_being_replaced_does_not_count(tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    writer(generation(), "cpu")
    with pytest.raises(RuntimeError):
        writer(generation(frames=5), "cpu")
    assert not writer.is_done("a", 0)


def test_a_failing_clip_leaves_those_before_it(tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    with pytest.raises(UserError, match="no more"):
        generate_split(toy(), Asked(fail_at="c.d"), writer, TRAINER)
    assert [writer.is_done(*name) for name in Asked().wanted] == [True, True, False]
    again = Asked()
    generate_split(toy(), again, writer, TRAINER)
    assert again.made == ["c.d"]


def test_hardware_is_named():
    assert "cores" in hardware.hardware()


# thbench generate


@pytest.fixture
def generate(bench, files, tmp_path):
    def run(name, *more):
        out = tmp_path / "deep" / name
        named = ["--image", files / "me.png", "--audio", files / "me.wav", "-o", out]
        assert main([str(w) for w in ("generate", *bench.dawn, *named, *more)]) == 0
        return out

    return run


def test_generate_makes_the_video_that_was_asked_for(generate, files):
    out = generate("o.mp4")
    info = video.probe(out)
    assert (info.width, info.height, info.fps, info.n_frames) == (64, 64, 25, FRAMES)
    tags = video.read_metadata(out)
    assert (tags["synthetic"], tags["strategy"], tags["seed"]) == ("true", "dawn", "0")
    assert tags["run"].startswith("dawn-")
    given, heard = audio.load(files / "me.wav"), audio.load(out)
    n = min(len(given), len(heard))
    assert abs(len(heard) - FRAMES * 640) <= 1024
    assert np.corrcoef(given[:n], heard[:n])[0, 1] > 0.95
    # The flows of networks that learnt nothing still warp a portrait: a face, not noise.
    portrait = video.read_image(files / "me.png").float()
    assert (video.read(out).float().mean(0) - portrait).abs().mean() < 60


def test_the_same_seed_makes_the_same_video(generate):
    one, again = generate("a.mp4", "--seed", 3), generate("b.mp4", "--seed", 3)
    other = generate("c.mp4", "--seed", 4)
    assert one.read_bytes() == again.read_bytes()
    assert not torch.equal(video.read(one), video.read(other))


def test_generate_runs_the_networks_in_the_sampler_s_precision(generate, monkeypatch):
    seen, decode = [], DAWN.decode

    def noted(*given):
        seen.append(torch.is_autocast_enabled("cpu"))
        return decode(*given)

    monkeypatch.setattr(DAWN, "decode", noted)
    generate("half.mp4", "sampler.precision=bf16-mixed", "trainer.precision=32-true")
    assert seen
    assert all(seen)


def test_a_watermark_changes_its_corner(generate):
    plain, marked = video.read(generate("a.mp4")), video.read(generate("b.mp4", "--watermark"))
    change = (plain.float() - marked.float()).abs().mean((0, 1))
    assert change[48:, 20:].max() > 40
    assert change[:40].max() < 6  # what the encoder spreads


def test_a_video_follows_a_motion(generate, bench, files):
    from thbench import config
    from thbench.generation import assemble, requests

    clips = bench.data / "clips"
    still = generate("own.mp4")
    moved = generate("led.mp4", "--motion", clips / "p0003-00.mp4")
    assert not torch.equal(video.read(still), video.read(moved))
    loaded = config.load(bench.strategy, bench.words)
    asked = requests.from_files(
        files / "me.png", files / "me.wav", "logmel", 64, motion=clips / "p0003-00.mp4"
    )
    followed = runner.generate(assemble.assemble(loaded).strategy, asked)
    assert torch.equal(followed.pose, asked.pose)
    assert torch.equal(followed.eyes, asked.eyes)


# thbench eval, killed and over devices


@pytest.fixture
def elsewhere(bench, tmp_path):
    """The words of an evaluation whose videos go below ``tmp_path/name``."""

    def words(name, *more):
        runs = tmp_path / name
        runs.mkdir(exist_ok=True)
        for folder in bench.runs.glob("[!e]*-*"):
            if not (runs / folder.name).exists():
                (runs / folder.name).symlink_to(folder)
        return ["eval", *bench.dawn, f"runs={runs}", f"results={runs / 'results'}", *more]

    return words


def made_by(folder: Path):
    (where,) = folder.glob("eval-*")
    return where


def without_times(folder):
    """The lines beside the videos, without what a clock says."""
    lines = {}
    for path in sorted(folder.rglob("seed-*/*.json")):
        record = json.loads(path.read_text())
        for key in ("seconds", "first_frame"):
            del record["cost"][key]
        lines[path.name] = {k: v for k, v in record.items() if k != "warm"}
    return lines


def test_an_evaluation_ends_when_it_is_told_to_and_keeps_what_it_made(
    elsewhere, tmp_path, monkeypatch, capsys
):
    """As by ``scancel``, or ``kill``: not after the last clip."""
    before, write = signal.getsignal(signal.SIGTERM), ClipWriter.__call__

    def told(writer, *clip):
        write(writer, *clip)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(ClipWriter, "__call__", told)
    with pytest.raises(SystemExit) as ended:
        main(elsewhere("told"))
    assert ended.value.code == 143
    assert "it goes on" in capsys.readouterr().out
    assert len(list((tmp_path / "told").glob("eval-*/seed-0/*.json"))) == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
def test_an_evaluation_that_is_killed_goes_on(elsewhere, tmp_path):
    steps = "sampler.steps=50"
    assert main(elsewhere("whole", steps)) == 0
    running = subprocess.Popen(
        command(*elsewhere("cut", steps)),
        env=env(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while running.poll() is None and not list((tmp_path / "cut").glob("eval-*/seed-0/*.json")):
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    finished = sorted((tmp_path / "cut").glob("eval-*/seed-0/*.json"))
    assert 1 <= len(finished) < 3
    assert not (tmp_path / "cut" / "results").exists()
    before = {path: path.stat().st_mtime_ns for path in finished}
    before |= {p.with_suffix(".mp4"): p.with_suffix(".mp4").stat().st_mtime_ns for p in finished}
    assert main(elsewhere("cut", steps)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    whole, cut = made_by(tmp_path / "whole"), made_by(tmp_path / "cut")
    assert whole.name == cut.name
    assert len(clips(whole)) == 3
    assert clips(cut) == clips(whole)
    assert without_times(cut) == without_times(whole)
    figures = [
        json.loads(path.read_text())["metrics"] for path in tmp_path.glob("*/results/*.json")
    ]
    assert len(figures) == 2
    assert figures[0] == figures[1]
    assert sorted(contents(cut)) == sorted(contents(whole))


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(elsewhere, tmp_path):
    assert main(elsewhere("one")) == 0
    words = elsewhere("two", "trainer.devices=2", "trainer.strategy=ddp")
    done = thbench(*words, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = made_by(tmp_path / "one"), made_by(tmp_path / "two")
    assert one.name == two.name
    assert clips(one) == clips(two)
    assert without_times(one) == without_times(two)
    assert done.stdout.count("clips scored") == 1
    assert not [word for word in NOISE if word in done.stdout + done.stderr], done.stderr
    assert len(list((tmp_path / "two" / "results").glob("*.json"))) == 1


def test_lines_of_an_older_thbench_say_nothing_of_costs(tmp_path):
    writer = ClipWriter(tmp_path, "toy", "r1")
    asked = Asked()
    assert generate_split(toy(), asked, writer, TRAINER)
    paths = [writer.path(*name) for name in asked.wanted]
    for path in paths[1:]:
        line = path.with_suffix(".json")
        record = json.loads(line.read_text())
        del record["cost"]["depth"]
        line.write_text(json.dumps(record))
    assert summarize_costs(paths).clips == 1
    assert summarize_costs(paths[1:]) is None
