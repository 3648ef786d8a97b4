"""Every protocol, with none, some and all of the published weights, under `score` and `eval`."""

import json
import re
import shutil
from functools import cache

import pytest
import torch

from metrics.extractors import inception
from metrics.extractors.expression import LandmarkExpression
from metrics.weights import WEIGHTS, Weights, sha256
from tests.metrics import test_i3d
from tests.metrics.test_extractor_arcface import tiny_network
from tests.metrics.test_extractor_syncnet import published_state
from tests.metrics.test_extractors import random_state
from thbench.cli.parser import main
from thbench.config import names
from thbench.data.face.morphable import Morphable, write
from thbench.data.media import audio, video
from thbench.evaluation import protocol

LENGTHS, SHORT = (25, 18), 17
"""Frames of the videos to score and of those that `eval` makes: too few for FVD32 or DR25."""

INCEPTION = ("FID", "DR25", "DR50", "E-FID (inception)")
OWN = ("synthetic", "pyramid")
"""In the names of figures whose weights travel with the package, or that have none."""
SYNC = ("LSE-C", "LSE-D", "AV offset", "AV confidence")
NEEDS = {
    "fid-inception": INCEPTION,
    "i3d-torchscript": ("FVD16", "FVD32"),
    "syncnet": SYNC,
    "arcface": ("CSIM",),
    "landmark-expression": ("E-FID (landmark-expression)",),
    "lipreader": ("WER (lip reading)",),
    # Nobody makes this feature; the remedy is an extractor of one's own.
    "hopenet": ("Diversity (hopenet)",),
}
SLOW = pytest.mark.slow
HERE = {"none": set(), "some": {"fid-inception", "syncnet"}, "all": set(NEEDS) - {"hopenet"}}
UNDEFINED = ("FVD32", "DR25", "DR50", "Blink duration", "BAS", "Silent lip", "THEval score")
"""What clips as short as these need not have a value of."""


OF_ANY_FRAMES = ("PSNR", "SSIM", "MSE", "FID", "E-FID (inception)", "CPBD", "FD-pyramid")
"""Figures of whatever an untrained network makes."""
OF_ONE_VIDEO = ("CPBD", "LSE-C", "LSE-D", "Blink/s", "AV confidence")
"""Figures of the reference alone."""
RULES = [name for name in names("protocol") if not name.startswith("synthetic-")]
"""The others are ``synthetic`` at another size."""
NAME = re.compile(r"[^\s,(](?:\([^)]*\)|[^,(])*")
"""A figure's name in a list; commas stand within its brackets too."""


class Reader:
    """Reads the same two words off any lips."""

    version = "1"

    def __init__(self, device):
        pass

    def __call__(self, frames, landmarks, valid):
        return "two words"


@cache
def states():
    return {"fid-inception": random_state(), "syncnet": published_state()}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Small stand-ins under the published names and with the published names and shapes inside."""
    folder = tmp_path_factory.mktemp("all")
    for name, state in states().items():
        torch.save(state, folder / WEIGHTS[name].file)
    torch.jit.script(test_i3d.Program()).save(folder / WEIGHTS["i3d-torchscript"].file)
    tiny_network(folder / WEIGHTS["arcface"].file)
    write(Morphable(3, LandmarkExpression.dim), folder / LandmarkExpression.file)
    return folder


@pytest.fixture(scope="module")
def videos(bench, tmp_path_factory):
    """Clips of other people under the test clips' names, larger than they are."""
    folder = tmp_path_factory.mktemp("videos")
    people = ("p0003-00", "p0004-00", "p0005-00")
    for name, other, length in zip(people, people[1:], LENGTHS, strict=False):
        path = bench.data / "clips" / f"{other}.mp4"
        frames = torch.nn.functional.interpolate(video.read(path).float(), (96, 96)).byte()
        with video.VideoWriter(folder / f"{name}.mp4", 96, 96, waveform=audio.load(path)) as made:
            made.write(frames[:length])
    return folder


@pytest.fixture(scope="module")
def features_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture(params=["all", "none", pytest.param("some", marks=SLOW)])
def here(request, files, features_folder, monkeypatch, tmp_path):
    """Which of the weights are here; every file with a hash is taken for the published one."""
    present = HERE[request.param]
    for name in present & set(WEIGHTS):
        entry = WEIGHTS[name]
        shutil.copy(files / entry.file, tmp_path)
        known = Weights(entry.file, entry.url, entry.licence, sha256(files / entry.file))
        monkeypatch.setitem(WEIGHTS, name, known)
    if "landmark-expression" in present:
        shutil.copy(files / LandmarkExpression.file, tmp_path)
    monkeypatch.delenv("THBENCH_LIPREADER", raising=False)
    if "lipreader" in present:
        monkeypatch.setenv("THBENCH_LIPREADER", f"{__name__}:Reader")
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("THBENCH_CACHE", str(features_folder))
    monkeypatch.setattr(inception, "SIZE", 75)  # the least that the network takes, 16 times as fast
    monkeypatch.chdir(tmp_path)
    return present


def missing(figure, present):
    """Whether a weight file that a figure needs is not here."""
    return not any(word in figure for word in OWN) and any(
        figure.startswith(name) and weights not in present
        for weights, names in NEEDS.items()
        for name in names
    )


def said(out, what):
    """The figures on the lines that begin with so many words; remedies follow behind a colon."""
    lines = [line for line in out.splitlines() if line.startswith(f"{what}: ")]
    return {name for line in lines for name in NAME.findall(line.split(": ")[1])}


def check(result, rule, present, out, defined):
    figures = result["metrics"]
    assert list(figures) == [m.name for m in protocol.load(rule).build()]
    absent = {name for name in figures if missing(name, present)}
    assert {name for name, figure in figures.items() if figure["unavailable"]} == absent
    assert said(out, "unavailable") == absent
    for name, figure in figures.items():
        if name in absent:
            assert figure["value"] is None, name
        elif defined(name):
            assert figure["value"] is not None, name
    followed = [m.name for m in protocol.load(rule).over_time.build()]
    absent = {name for name in followed if missing(name, present)}
    assert set(result["over_time_unavailable"]) == said(out, "unavailable over time") == absent
    return set(followed) - absent


@pytest.mark.parametrize("rule", RULES)
def test_score_measures_what_it_can_and_says_what_it_cannot(
    rule, here, bench, videos, tmp_path, capsys
):
    words = ["score", videos, "--reference", bench.data, "--protocol", rule, "--name", "theirs"]
    assert main([str(w) for w in [*words, "--ground-truth", "--results", tmp_path / "r"]]) == 0
    out, truth_out = capsys.readouterr().out.split("\nresult: ", 1)
    made = json.loads((tmp_path / "r" / f"theirs-{rule}.json").read_text())
    followed = check(made, rule, here, out, lambda name: not name.startswith(UNDEFINED))
    # One clip has a whole bin of frames.
    assert set(made["over_time"]) == followed
    assert made["coverage"]["scored"] == 2
    (truth,) = (tmp_path / "r").glob(f"ground-truth-*-{rule}.json")
    check(json.loads(truth.read_text()), rule, here, truth_out, lambda name: name in OF_ONE_VIDEO)


@SLOW
@pytest.mark.parametrize("rule", RULES)
def test_eval_measures_what_it_can_and_says_what_it_cannot(rule, here, bench, tmp_path, capsys):
    words = (f"eval.protocol={rule}", "eval.limit=1", f"eval.frames={SHORT}")
    assert main(["eval", *bench.dawn, *words, f"results={tmp_path / 'r'}"]) == 0
    (path,) = (tmp_path / "r").glob("*.json")
    made = json.loads(path.read_text())
    check(made, rule, here, capsys.readouterr().out, lambda name: name in OF_ANY_FRAMES)
