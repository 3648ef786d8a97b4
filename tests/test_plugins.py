"""Strategies, metrics and extractors of other packages, found by their entry points."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import env
from thbench import config
from thbench.cli.parser import main
from thbench.config import search
from thbench.core.errors import UserError
from thbench.evaluation import protocol
from thbench.generation import assemble

SOURCE = Path(__file__).parent / "plugin"
PROTOCOL = "{size: 64, frames: 9, metrics: [{metric: tone-error}, {metric: psnr}]}"


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """A folder into which pip has installed tests/plugin."""
    home = tmp_path_factory.mktemp("plugin")
    shutil.copytree(SOURCE, home / "source")  # building leaves files beside it
    words = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip", *words, "--target", home / "site", home / "source"]
    subprocess.run(pip, check=True, capture_output=True, text=True)
    return home / "site"


@pytest.fixture
def plugin(installed, monkeypatch):
    monkeypatch.syspath_prepend(installed)
    return installed


@pytest.fixture
def add(tmp_path, monkeypatch):
    """Install a package with entry points, by hand."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(package, group, **points):
        info = tmp_path / f"{package}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
        lines = (f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[thbench.{group}]\n{''.join(lines)}")
        monkeypatch.syspath_prepend(tmp_path / package)  # what is found is kept by path
        return tmp_path

    return install


def listed(kind, capsys):
    assert main(["ls", kind]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_a_strategy_of_another_package_is_trained_run_and_scored(
    plugin, bench, files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("THBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tone.yaml").write_text(PROTOCOL)
    places = [f"data={bench.data}", f"runs={tmp_path / 'runs'}", f"results={tmp_path / 'results'}"]
    common = [*places, "trainer.accelerator=cpu", "trainer.workers=0", "trainer.progress=false"]
    common += ["tracking.wandb=off", "data.cache_gb=0.1"]
    assert main(["fit", "flat", *common]) == 0
    chosen = [f"eval.protocol={tmp_path / 'tone.yaml'}", "eval.limit=2", "eval.timing=false"]
    assert main(["eval", "flat", *common, *chosen]) == 0
    shown = capsys.readouterr().out
    assert "Tone error" in shown
    assert "2 of 2 clips scored" in shown
    names = ["--image", files / "me.png", "--audio", files / "me.wav", "-o", tmp_path / "o.mp4"]
    assert main(["generate", "flat", *common, *map(str, names)]) == 0
    assert (tmp_path / "o.mp4").is_file()
    assert list((tmp_path / "runs").glob("tone-*/last.ckpt"))


def test_what_other_packages_add_is_listed_without_importing_it(plugin):
    code = (
        "import sys\nfrom thbench.cli.parser import main\nassert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'toybench'} & set(sys.modules)"
    )
    run = [sys.executable, "-c", code, "ls", "strategies"]
    paths = env(PYTHONPATH=f"{plugin}:{SOURCE.parents[1]}", COLUMNS="150")
    shown = subprocess.run(run, env=paths, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in shown.splitlines() if line.startswith("flat")] == [
        "thbench-toy"
    ]


def test_names_of_other_packages_are_known_like_our_own(plugin, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    assert "tone-error" in (text := listed("metrics", capsys))
    assert "Mean absolute difference of mean colours. thbench-toy" in text
    with pytest.raises(UserError, match="Did you mean 'flat'"):
        config.find("strategy", "flaat")
    with pytest.raises(UserError, match="Did you mean 'tone-error'"):
        protocol.build_metric({"metric": "tone-eror"})
    with pytest.raises(UserError, match="Did you mean 'scale'"):
        protocol.build_metric({"metric": "tone-error", "scal": 2})
    for word, hint in (
        ("stages.tone.model.net.widht=3", "width"),
        ("options.gian=2", "gain"),
        ("nets.ton=tone", "tone"),
    ):
        with pytest.raises(UserError, match=f"Did you mean '{hint}'"):
            assemble.check(config.load("flat", [word]))


def test_a_protocol_s_hash_tells_packages_apart(plugin, monkeypatch):
    parsed = protocol.parse("tone", {"size": 64, "metrics": [{"metric": "tone-error"}]})
    before = parsed.hash
    found = {"metric": protocol.metric_registry, "extractor": protocol.extractor_registry}
    for kind, registry in found.items():
        with monkeypatch.context() as patch:
            patch.setattr(registry, "package", lambda name: "another")
            again = protocol.parse("tone", {"size": 64, "metrics": [{"metric": "tone-error"}]})
            assert again.hash != before, kind
    own = protocol.load("synthetic")
    assert all(isinstance(version, int) for version in own._versions().values())


def test_a_base_may_be_ours_and_a_strategy_s_own_package_is_not_imported(add, tmp_path):
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text("raise ImportError('not to be imported')")
    (tmp_path / "heavy" / "inner").mkdir()
    text = "base: [strategy/dawn.yaml]\ntitle: Mine\nplan: {name: sar}\n"
    (tmp_path / "heavy" / "inner" / "mine.yaml").write_text(text)
    add("mine", "strategies", mine="heavy.inner")
    loaded = config.load("mine")
    assert (loaded.title, loaded.strategy, loaded.plan["name"]) == ("Mine", "mine", "sar")
    assert assemble.check(loaded).__name__ == "DAWN"
    assert config.origin("strategy", "mine") == config.package_of("mine") == "mine"
    assert config.package_of("dawn") == "thbench"


# What is broken


@pytest.mark.parametrize(
    ("group", "value", "says"),
    [
        ("strategies", "no_such_package", "There is no package 'no_such_package'"),
        ("strategies", "json", "its package 'json' has no file it.yaml"),
        ("metrics", "no_such_module:Metric", "There is no module 'no_such_module'"),
        ("metrics", "json:Metric", "'json' has no class 'Metric'"),
        ("metrics", "json", "write it as 'module:Class'"),
        ("metrics", "json:JSONDecoder", "is no BenchMetric"),
        ("metrics", "broken_module:Metric", "ZeroDivisionError"),
    ],
)
def test_what_is_broken_is_named_and_breaks_nothing_else(
    group, value, says, add, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "300")
    (tmp_path / "broken_module.py").write_text("1 / 0")
    add("bad", group, it=value)
    use = config.load if group == "strategies" else protocol.metric_registry.load
    with pytest.raises(UserError, match=f"of package 'bad' cannot be used: .*{says}") as caught:
        use("it")
    assert "\n" not in str(caught.value)
    text = listed(group, capsys)
    assert "unusable: The" in text
    assert says in text
    assert {"strategies": "hallo", "metrics": "psnr"}[group] in text
    assert config.load("dawn").title
    assert protocol.load("synthetic").hash


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("no_such_module:Strategy", "There is no module 'no_such_module'"),
        ("broken_module:Strategy", "ModuleNotFoundError: No module named 'absent'"),
        ("json:JSONDecoder", "is no Strategy"),
    ],
)
def test_a_class_that_another_package_s_yaml_names_is_blamed_on_it(target, says, add, tmp_path):
    (tmp_path / "broken_module.py").write_text("import absent")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "odd.yaml").write_text(f"base: [strategy/dawn.yaml]\ntarget: '{target}'")
    add("odd-package", "strategies", odd="odd")
    with pytest.raises(UserError, match=f"of package 'odd-package' cannot be used: .*{says}"):
        assemble.check(config.load("odd"))


def test_two_of_one_name_are_refused(plugin, add, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    (tmp_path / "flat.yaml").touch()
    add("other", "strategies", flat="toybench", dawn="toybench")
    for name, packages in (("flat", "other and thbench-toy"), ("dawn", "thbench and other")):
        with pytest.raises(
            UserError, match=f"'{name}' comes from more than one package, {packages}"
        ):
            config.load(name)
    assert "other and thbench-toy: uninstall all but one" in listed("strategies", capsys)
    assert config.load("hallo").title


def test_two_metrics_of_one_name_are_refused(plugin, add, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    add("other", "metrics", **{"tone-error": "toybench.metric:ToneError", "psnr": "x:Y"})
    for name, packages in (("tone-error", "other and thbench-toy"), ("psnr", "thbench and other")):
        with pytest.raises(UserError, match=f"more than one package, {packages}"):
            protocol.build_metric({"metric": name})
    assert "other and thbench-toy: uninstall all but one" in listed("metrics", capsys)
    assert protocol.build_metric({"metric": "ssim"}).name == "SSIM"


# Folders of the user's


@pytest.fixture
def folder(tmp_path):
    """Laid out as configs/: a dawn of one's own on thbench's, a further strategy, a protocol."""
    files = {
        "strategy/dawn.yaml": "{base: [strategy/dawn.yaml], title: Mine}",
        "strategy/quick.yaml": "{base: [strategy/dawn.yaml], seed: 7}",
        "protocol/short.yaml": "{size: 64, metrics: [{metric: psnr}]}",
        "data/mine.yaml": "{name: mine, root: data/elsewhere}",
    }
    for name, text in files.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "own"


@pytest.mark.parametrize("how", ["before", "after", "=", "variable"])
def test_a_folder_of_one_s_own_is_searched_first(how, folder, capsys, monkeypatch):
    words = ["config", "quick", "data=mine"]
    if how == "variable":
        monkeypatch.setenv("THBENCH_CONFIG_DIR", str(folder))
    elif how == "=":
        words.append(f"--config-dir={folder}")
    else:
        named = ["--config-dir", str(folder)]
        words = [*named, *words] if how == "before" else [*words, *named]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "title: Mine" in shown  # of the base, which is the user's own as well
    assert "seed: 7" in shown
    assert "root: data/elsewhere" in shown
    assert search.user_roots() == ([folder] if how == "variable" else [])


def test_what_a_folder_adds_is_listed_and_hashed_by_content(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with config.searching([folder]):
        assert "quick" in (text := listed("strategies", capsys))
        assert str(folder) in text
        assert "mine" in listed("data", capsys)
        assert "short" in config.names("protocol")
        assert config.origin("protocol", "short") == str(folder)
        assert protocol.load("short").size == 64
        with pytest.raises(UserError, match="Did you mean 'quick'"):
            config.load("quikc")
        loaded = config.load("quick")
        assert loaded == config.load(str(folder / "strategy" / "quick.yaml"))
    ours = config.load("dawn", ["seed=7", "title=Mine", "strategy=quick"])
    assert config.content_hash(loaded) == config.content_hash(ours)
    with pytest.raises(UserError, match="No strategy 'quick'"):
        config.load("quick")


def test_the_first_folder_wins(folder, tmp_path):
    (tmp_path / "b" / "strategy").mkdir(parents=True)
    text = "{base: [strategy/quick.yaml], title: Second}"
    (tmp_path / "b" / "strategy" / "quick.yaml").write_text(text)
    with config.searching([tmp_path / "b", folder]):
        assert (config.load("quick").title, config.load("quick").seed) == ("Second", 7)
    with config.searching([folder, tmp_path / "b"]):
        assert config.load("quick").title == "Mine"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config-dir", "/nowhere"], "--config-dir: there is no folder /nowhere"),
        (["--config-dir", "."], "has none of the folders of configs/"),
        (["--config-dir"], "--config-dir: expected one argument"),
        (["--config-dir="], "--config-dir: expected one argument"),
    ],
)
def test_a_wrong_folder_is_refused(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ls", "data", *words]) == 2
    assert says in capsys.readouterr().err
    monkeypatch.setenv("THBENCH_CONFIG_DIR", "/nowhere")
    assert main(["ls", "data"]) == 2
    assert "$THBENCH_CONFIG_DIR: there is no folder /nowhere" in capsys.readouterr().err


def test_a_missing_base_names_the_nearest(folder):
    (folder / "strategy" / "quick.yaml").write_text("{base: [strategy/dwan.yaml]}")
    with (
        config.searching([folder]),
        pytest.raises(UserError, match=r"quick\.yaml: .* no strategy/dwan\.yaml.*dawn\.yaml'"),
    ):
        config.load("quick")
