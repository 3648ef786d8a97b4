"""The Python API does what the commands do."""

import subprocess
import sys
from pathlib import Path

import pytest

import thbench
from tests.tiny import FRAMES
from thbench.cli.parser import main
from thbench.core.types import Cost
from thbench.data.media import video
from thbench.evaluation import protocol, results

PSNR = {"size": 64, "frames": 9, "metrics": [{"metric": "psnr"}]}


def test_importing_it_takes_no_torch():
    code = (
        "import sys, thbench\nassert 'thbench.api' not in sys.modules\n"
        "assert callable(thbench.load) and thbench.UserError.__name__ == 'UserError'\n"
        "from thbench import generate, score, fit, evaluate, config\n"
        "assert not {'torch', 'lightning', 'cv2'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_it_has_what_it_names():
    for name in thbench.__all__:
        assert name in dir(thbench)
        documented = getattr(thbench, name).__doc__
        assert name == "UserError" or f"thbench.{name}(" in documented
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        thbench.__getattr__("lode")


def test_a_loaded_strategy_makes_the_videos_that_the_command_makes(bench, files, tmp_path, capsys):
    dawn = thbench.load(*bench.dawn)
    assert dawn.config.strategy == "dawn"
    inputs = {"image": files / "me.png", "audio": str(files / "me.wav")}
    path, cost = thbench.generate(dawn, **inputs, out=str(tmp_path / "a.mp4"), seed=3)
    assert (path, type(cost)) == (tmp_path / "a.mp4", Cost)
    assert 0 < cost.first_frame <= cost.seconds
    assert video.probe(path).n_frames == FRAMES
    named, _ = thbench.generate(*bench.dawn, **inputs, out=tmp_path / "b.mp4", seed=3)
    words = ["--image", inputs["image"], "--audio", inputs["audio"], "-o", tmp_path / "c.mp4"]
    assert main(["generate", *bench.dawn, *map(str, words), "--seed", "3"]) == 0
    assert path.read_bytes() == named.read_bytes() == (tmp_path / "c.mp4").read_bytes()
    said = capsys.readouterr().out.splitlines()  # the command alone says something
    assert [line.split()[0] for line in said] == ["weights:", f"{tmp_path / 'c.mp4'}:"]
    for options, says in (
        ({}, "exists"),
        ({"out": tmp_path / "d.mov"}, "must end in .mp4"),
        ({"out": tmp_path / "d.mp4", "image": tmp_path / "no.png"}, "There is no file"),
    ):
        with pytest.raises(thbench.UserError, match=says):
            thbench.generate(dawn, **{**inputs, "out": path, **options})
    with pytest.raises(thbench.UserError, match="say it to thbench"):
        thbench.generate(dawn, "seed=1", **inputs, out=tmp_path / "d.mp4")
    thbench.generate(dawn, **inputs, out=path, seed=4, overwrite=True)
    assert path.read_bytes() != named.read_bytes()


def test_fit_evaluate_and_score_do_what_their_commands_do(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_CACHE", str(tmp_path / "cache"))
    runs = tmp_path / "runs"
    runs.mkdir()
    for folder in Path(bench.runs).glob("[!e]*-*"):
        (runs / folder.name).symlink_to(folder)
    words = (*bench.dawn, f"runs={runs}", f"results={tmp_path / 'results'}")
    folders = thbench.fit(*words)
    assert list(folders) == ["lfg", "pbnet", "a2v1", "a2v2"]
    assert all((folder / "last.ckpt").is_file() for folder in folders.values())
    assert list(thbench.fit(*words, stage="lfg")) == ["lfg"]
    (tmp_path / "psnr.yaml").write_text(str(PSNR))
    chosen = (f"eval.protocol={tmp_path / 'psnr.yaml'}", "eval.limit=2")
    result = thbench.evaluate(*words, *chosen)
    (written,) = (tmp_path / "results").glob("*.json")
    assert results.read(written) == result
    (made,) = runs.glob("eval-dawn-*")
    named = thbench.score(made, bench.data, tmp_path / "psnr.yaml", name="mine")
    assert named.metrics["PSNR"].value == result.metrics["PSNR"].value
    assert (named.run, named.strategy, named.coverage.scored) == ("mine-psnr", "mine", 2)
    parsed = protocol.parse("psnr", PSNR)
    assert thbench.score(made, bench.data, protocol=parsed).metrics == named.metrics
    assert len(list((tmp_path / "results").glob("*.json"))) == 1  # score writes nothing
    for wrong, says in (
        (lambda: thbench.fit(*words, "sampler.spacing=foo"), "sampler.spacing"),
        (lambda: thbench.fit(*words, "stages.a2v1.model.net.dmi=3"), "Did you mean 'dim'"),
        (lambda: thbench.evaluate(*words, "size=63"), "even number"),
        (lambda: thbench.score(made, bench.data, "dwan"), "Did you mean 'dawn'"),
        (lambda: thbench.load("dwan"), "Did you mean 'dawn'"),
    ):
        with pytest.raises(thbench.UserError, match=says):
            wrong()
