"""docs/first-strategy.md and docs/first-metric.md: their code, YAML and commands are run."""

import importlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import baselines
import metrics
from metrics.base import FrameMetric
from thbench import config
from thbench.cli.parser import main
from thbench.data.media import video
from thbench.data.media.video import VideoWriter
from thbench.evaluation import protocol, results
from thbench.generation import assemble
from thbench.generation.strategy import Strategy

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.M | re.S)
QUICK = (
    *("stages.net.max_steps=2", "stages.net.batch_size=2", "sampler.steps=2"),
    *("eval.limit=1", "trainer.validate_batches=1"),
)
LEVELS = {"generated": [10, 14, 14, 8], "reference": [10, 10, 12, 12]}
"""Grey levels of the frames of the two clips, and of their references."""


@dataclass(frozen=True)
class Lesson:
    """The files that a page tells to write, below ``root``, and its commands."""

    root: Path
    commands: list[list[str]]

    def command(self, *start):
        """The words after ``thbench`` of the page's command that begins so."""
        return next(c[1:] for c in self.commands if c[: len(start) + 1] == ["thbench", *start])

    def read(self, name):
        return (self.root / name).read_text()


def lesson(page, root):
    """Writes the blocks that have a title to files; blocks of one title make one file."""
    commands = []
    for kind, title, text in BLOCK.findall((DOCS / page).read_text()):
        if kind == "bash":
            commands += [shlex.split(line) for line in text.splitlines()]
        elif title:
            path = root / title
            path.parent.mkdir(parents=True, exist_ok=True)
            before = path.read_text() + "\n\n" if path.exists() else ""
            path.write_text(before + text)
    return Lesson(root, commands)


@pytest.fixture
def strategy(tmp_path, monkeypatch):
    """The page's strategy, as if its files lay in baselines/ and configs/."""
    page = lesson("first-strategy.md", tmp_path)
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path / "baselines")])
    monkeypatch.setenv("THBENCH_CONFIG_DIR", str(tmp_path / "configs"))
    yield page
    forget("baselines.coarse")


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """The page's metric, as if its files lay in metrics/ and it were registered there."""
    page = lesson("first-metric.md", tmp_path)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path / "metrics")])
    (line,) = re.findall(r'^ +"flicker": "(\S+)",$', (DOCS / "first-metric.md").read_text(), re.M)
    monkeypatch.setitem(protocol.metric_registry._targets, "flicker", line)
    yield page
    forget("metrics.flicker")


def forget(*names):
    for name in names:
        sys.modules.pop(name, None)
    importlib.invalidate_caches()


def install(page, root, package, files, monkeypatch):
    """What pip makes of the page's pyproject.toml, without pip: a package and its metadata."""
    import tomllib

    project = tomllib.loads(page.read("pyproject.toml"))["project"]
    place = root / "site"
    (place / package).mkdir(parents=True)
    for name, text in {"__init__.py": "", **files}.items():
        (place / package / name).write_text(text)
    info = place / f"{package}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"]
    lines = [f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in groups[g].items()) for g in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(place))


def quick(words, bench, tmp_path):
    """The words of a command, brought to the tests' data and a step or two."""
    own = [word for word in bench.words if not word.startswith(("stages.", "sampler.", "runs="))]
    settings = [*own, *QUICK, f"data={bench.data}", f"runs={tmp_path / 'runs'}"]
    settings += [f"results={tmp_path / 'results'}", f"eval.protocol={tmp_path / 'psnr.yaml'}"]
    return [*words[:2], *settings, *(word for word in words[2:] if word != "data=synthetic")]


def test_the_strategy_trains_generates_and_is_scored(
    strategy, bench, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "psnr.yaml").write_text(yaml.safe_dump(FAST))
    assert main(strategy.command("ls", "strategies")) == 0
    assert "coarse" in capsys.readouterr().out
    again = [c for c in strategy.commands if c[:2] == ["thbench", "eval"]][1]
    for words in (
        *(strategy.command(name) for name in ("check", "fit", "eval")),
        [*again[1:], "eval.limit=null"],
    ):
        assert main(quick(words, bench, tmp_path)) == 0
    for name in ("me.png", "me.wav"):
        (tmp_path / name).write_bytes((files / name).read_bytes())
    assert main(quick(strategy.command("generate"), bench, tmp_path)) == 0
    assert video.read(tmp_path / "me.mp4").shape == (25, 3, 64, 64)
    found = results.read_folder(tmp_path / "results")
    assert {r.strategy for r in found} == {"coarse"}
    assert all(r.metrics["PSNR"].value > 5 for r in found)
    zero_shot = [any("zero-shot" in note for note in r.notes) for r in found]
    assert sorted(zero_shot) == [False, True], "the second plan was not trained"


def test_the_strategy_is_found_in_a_package(strategy, tmp_path, monkeypatch):
    files = {
        "coarse.py": strategy.read("baselines/coarse.py"),
        "coarse.yaml": strategy.read("configs/strategy/coarse.yaml").replace(
            "baselines.coarse:", "thbench_coarse.coarse:"
        ),
    }
    monkeypatch.delenv("THBENCH_CONFIG_DIR")
    install(strategy, tmp_path, "thbench_coarse", files, monkeypatch)
    assert "coarse" in config.names("strategy")
    kind = assemble.check(config.load("coarse"))
    assert kind.__module__ == "thbench_coarse.coarse"
    assert issubclass(kind, Strategy)
    forget("thbench_coarse.coarse", "thbench_coarse")


def test_the_metric_measures_two_clips(metric, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THBENCH_CACHE", str(tmp_path / "cache"))
    for folder, levels in LEVELS.items():
        (tmp_path / folder).mkdir()
        frames = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 64, 64)
        for name in ("a.mp4", "b.mp4"):
            with VideoWriter(tmp_path / folder / name, 64, 64) as writer:
                writer.write(frames)
    assert main([*metric.command("score"), "--results", "results"]) == 0
    scored = {r.title: r.metrics["Flicker"] for r in results.read_folder(tmp_path / "results")}
    assert scored["My method"].value == pytest.approx(10 / 3, abs=1)
    assert scored["My method"].reference == pytest.approx(2 / 3, abs=1)
    assert scored["My method"].n == 2


def test_the_metric_s_own_test_passes(metric):
    code = compile(metric.read("tests/metrics/test_flicker.py"), "test_flicker.py", "exec")
    scope = {}
    exec(code, scope)
    scope["test_flicker_is_the_change_of_mean_brightness"]()
    flicker = scope["flicker"]
    assert [len(flicker(torch.zeros(n, 3, 8, 8, dtype=torch.uint8))) for n in (0, 1)] == [0, 0]


def test_the_metric_is_found_in_a_package(metric, tmp_path, monkeypatch):
    monkeypatch.delitem(protocol.metric_registry._targets, "flicker")
    files = {"flicker.py": metric.read("metrics/flicker.py")}
    install(metric, tmp_path, "thbench_flicker", files, monkeypatch)
    kind = protocol.metric_registry.load("flicker")
    assert kind.__module__ == "thbench_flicker.flicker"
    assert issubclass(kind, FrameMetric)
    forget("thbench_flicker.flicker", "thbench_flicker")


FAST = {
    "title": "PSNR alone",
    "size": 64,
    "frames": None,
    "source_frame": "first",
    "pose": "reference",
    "seeds": [0],
    "intervals": {"confidence": 0.95, "draws": 10, "groups": 2},
    "metrics": [{"metric": "psnr"}],
}
