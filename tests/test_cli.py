"""The commands: help, wrong input, full disks, and a quiet terminal."""

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from tests.tiny import NOISE, command, env, thbench
from thbench.cli import parser
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.store import Store

COMMANDS = [
    "fit",
    "eval",
    "generate",
    "montage",
    "score",
    "leaderboard",
    "compare",
    "data",
    "weights",
    "zoo",
    "ls",
    "config",
    "check",
]
COMMANDS += ["demo"]
ACTIONS = ["data synth", "data prepare", "data check"]
ACTIONS += ["weights list", "weights pull", "weights check", "zoo list", "zoo add"]
HEAVY = ("torch", "lightning", "cv2", "transformers", "wandb")


@pytest.fixture
def refused(capsys):
    """Run a command that must fail as a user's mistake; the one line that it prints."""

    def run(*words):
        capsys.readouterr()
        code = main([str(word) for word in words])
        err = capsys.readouterr().err
        assert code == 2, err
        assert err.startswith("thbench: "), err
        assert err.count("\n") == 1, err
        assert "\r" not in err
        return err.strip()

    return run


@pytest.fixture
def generate(bench, files, tmp_path):
    """The words of ``thbench generate`` with good files, or others."""

    def words(*more, image="me.png", audio="me.wav", out=None):
        out = out or tmp_path / "o.mp4"
        named = ["--image", files / image, "--audio", files / audio, "-o", out]
        return ["generate", *bench.dawn, *named, *more]

    return words


def everything(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def made(folder):
    """What tells of a finished clip or result."""
    return [path for path in everything(folder) if path.endswith((".mp4", ".json", ".tmp"))]


# Help


@pytest.mark.parametrize("name", ["", *COMMANDS, *ACTIONS])
def test_every_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([*name.split(), "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.startswith(f"usage: thbench {name}".rstrip())
    if not name:
        assert all(f"\n    {command}" in out for command in COMMANDS)


def test_without_a_command_help_is_printed(capsys):
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: thbench")


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["config", "dawn", "scale=paper"], ["ls", "strategies"],
     ["ls", "data"], ["ls", "plans"], ["fit", "dwan"], ["weights", "list"],
     ["weights", "check"], ["weights", "pull", "ifd"]],
    ids=" ".join,
)  # fmt: skip
def test_light_commands_import_nothing_heavy(words):
    code = (
        "import sys\nfrom thbench.cli.parser import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        f"assert not set({HEAVY}) & set(sys.modules), set({HEAVY}) & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


@pytest.mark.parametrize("kind", ["strategies", "metrics", "protocols", "data", "plans"])
def test_ls(kind, capsys):
    assert main(["ls", kind]) == 0
    out = capsys.readouterr().out
    if kind in ("strategies", "metrics", "protocols", "data"):
        assert {"strategies": "dawn", "metrics": "psnr", "data": "hdtf"}.get(kind, "dawn") in out
    if kind == "plans":
        assert "395 in sequence" not in out.splitlines()[1]
        assert "20 in sequence, 4000 frames" in out


def test_a_reader_that_leaves_is_no_fault():
    running = subprocess.Popen(
        command("config", "dawn"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env()
    )
    running.stdout.close()
    assert running.stderr.read() == b""
    assert running.wait() == 0


def test_interrupting_is_said_in_one_line(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("thbench.cli.commands.show_config", interrupted)
    assert main(["config", "dawn"]) == 130
    assert "run the same command again" in capsys.readouterr().err


# Words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["fti"], "Did you mean 'fit'"),
        (["fit"], "required: strategy."),
        (["generate", "dawn"], "required: --image, --audio, -o/--out"),
        (["generate", "dawn", "--image"], "--image: expected one argument"),
        (["generate", "dawn", "--image", "a", "--audio", "b", "-o", "c.mp4", "--sed", "1"],
         "Did you mean '--seed'"),
        (["generate", "dawn", "--image", "a", "--audio", "b", "-o", "c.mp4", "--seed", "x"],
         "--seed: invalid int value: 'x'"),
        (["ls", "metric"], "Did you mean 'metrics'"),
        (["data"], "required: ACTION"),
        (["data", "chek", "x"], "Did you mean 'check'"),
        (["weights"], "required: ACTION"),
        (["weights", "pull"], "Say which weights, or --all"),
        (["weights", "pull", "sincnet"], "Did you mean 'syncnet'"),
        (["weights", "check", "sincnet"], "Did you mean 'syncnet'"),
        (["data", "prepare", "fodler", "x", "--out", "y"], "Did you mean 'folder'"),
        (["data", "prepare", "folder", "/nowhere", "--out", "y"], "There is no folder /nowhere"),
        (["data", "synth", "--size", "10", "--out", "/nowhere/x"], "64 or more"),
        (["fit", "dwan"], "Did you mean 'dawn'"),
        (["config", "nofile.yaml"], "There is no file nofile.yaml"),
        (["config", "dawn", "scale=big"], "Known: paper, small, tiny"),
        (["config", "dawn", "weights=zo"], "Did you mean 'zoo'"),
        (["zoo", "add", "dwan"], "Did you mean 'dawn'"),
        (["fit", "dawn", "weights=zoo", "data=hdtf"], "prepare hdtf FOLDER --out data/hdtf`"),
        (["config", "dawn", "word"], "'word' is not of the form key=value"),
        (["config", "dawn", "--foo"], "'--foo' is not understood here"),
        (["config", "dawn", "size=[1"], "not valid YAML"),
        (["config", "dawn", "stages.lfg.max_step=3"], "Did you mean 'stages.lfg.max_steps'"),
        (["config", "dawn", "stages.lfg.optim.lr=fast"], "stages.lfg.optim.lr: Value 'fast'"),
        (["config", "dawn", "size=big"], "size: Value 'big'"),
        (["config", "dawn", "size=63"], "even number of pixels"),
        (["config", "dawn", "plan=[sar]"], "plan must be a plan's name"),
        (["config", "dawn", "data=nowhere"], "No data set 'nowhere'"),
        (["data", "check", "/nowhere"], "1 problem(s)"),
        (["leaderboard", "--results", "/nowhere"], "There are no results in /nowhere"),
        (["score", "/nowhere", "--reference", "/nowhere"], "There is no folder /nowhere"),
        (["score", ".", "--reference", ".", "--protocol", "dwan"], "Did you mean 'dawn'"),
        (["score", ".", "--reference", ".", "--name", "a/b"], "cannot name a result"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_wrong_words_get_one_line(words, says, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*words)
    assert everything(tmp_path) == []


def test_off_means_off(capsys):
    assert main(["config", "dawn", "tracking.wandb=off", "stages.lfg.optim.lr=1e-3"]) == 0
    out = capsys.readouterr().out
    assert "wandb: 'off'" in out
    assert "lr: 0.001\n" in out


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("plan.nmae=sar", "no option 'nmae'. Did you mean"),
        ("plan.name=zar", "No plan 'zar'"),
        ("plan.n=3", "no key 'plan.n'"),
        ("plan={name: sar, segment: x}", "plan.segment must be a whole number"),
        ("plan={name: rolling, window: 3}", "sampler.steps=2 is not a multiple"),
        ("nets.lfg=lgf", "no such stage. Did you mean 'lfg'"),
        ("options.guidence=2", "Did you mean 'guidance'"),
        ("stage=lgf", "has no stage 'lgf'. Did you mean 'lfg'"),
        ("data.root=/nowhere", "no prepared data set at '/nowhere'"),
        ("stages.lfg.model.net.regionz=3", "Did you mean 'regions'"),
        ("stages.a2v2.model.w_lips=3", "Did you mean 'w_lip'"),
        ("stages.lfg.model.foo=3", "There is no key 'stages.lfg.model.foo'"),
        ("stages.lfg.target=thbench.dawn.lfg:LFG", "has no class 'LFG'"),
        ("stages.lfg.optim.name=adma", "Did you mean 'adam'"),
        ("stages.lfg.draw.frames=1000", "has 1000 frames"),
        ("stages.lfg.batch_size=0", "batch_size=0"),
        ("stages.lfg.precision=foo", "stages.lfg.precision=foo is not known"),
        ("tracking.wandb=of", "Did you mean 'off'"),
        ("data.audio=mel", "no 'mel' embedding"),
    ],
)
def test_wrong_settings_stop_fit(word, says, bench, capsys, tmp_path):
    assert main(["fit", *bench.dawn, f"runs={tmp_path / 'runs'}", word]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("thbench: ")
    assert says in line
    assert not list(tmp_path.rglob("*.ckpt*"))


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("plan.name=zar", "No plan 'zar'"),
        ("eval.split=tset", "no clips in its split 'tset'"),
        ("eval.limit=0", "eval.limit must be a positive number"),
        ("eval.limit=-1", "eval.limit must be a positive number"),
        ("eval.frames=0", "eval.frames must be a positive number"),
        ("eval.protocol=synthtic", "Did you mean 'synthetic'"),
        ("seed=5", "is not trained"),
        ("data.root=/nowhere", "/nowhere is no prepared data set"),
        ("options.guidance=x", "options.guidance is 'x'"),
        ("options.window=x", "options.window must be"),
        ("sampler.spacing=foo", "sampler.spacing=foo is not known. Known: "),
        ("sampler.steps=0", "sampler.steps"),
        ("trainer.accelerator=foo", "there is no such device here"),
        ("trainer.devices=0", "devices"),
        ("trainer.strategy=foo", "trainer: "),
    ],
)
def test_wrong_settings_stop_eval(word, says, bench, refused):
    before = made(bench.home)
    assert says in refused("eval", *bench.dawn, word)
    assert made(bench.home) == before


def test_a_data_set_without_test_clips_is_refused(bench, refused, tmp_path):
    shutil.copytree(bench.data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    manifest = tmp_path / "data" / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"split": "test"', '"split": "val"'))
    words = [*bench.dawn, f"data={tmp_path / 'data'}"]
    assert "no clips in its split 'test'" in refused("eval", *words)


# Checkpoints


@pytest.fixture
def runs(bench, tmp_path):
    """A copy of the run folders that may be spoilt."""
    for folder in bench.runs.glob("*-*"):
        if not folder.name.startswith("eval"):
            shutil.copytree(folder, tmp_path / "runs" / folder.name)
    return tmp_path / "runs"


def checkpoint(runs, stage):
    (path,) = runs.glob(f"{stage}-*/last.ckpt")
    return path


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path, runs: path.unlink(), "is not trained"),
        (lambda path, runs: shutil.rmtree(path.parent), "is not trained"),
        (lambda path, runs: path.write_bytes(b""), "cannot be read"),
        (lambda path, runs: path.write_bytes(path.read_bytes()[:5000]), "cannot be read"),
        (lambda path, runs: path.write_bytes(b"\x80\x04nothing" * 900), "cannot be read"),
        (lambda path, runs: shutil.copy(checkpoint(runs, "pbnet"), path),
         "is a checkpoint of stage 'pbnet' (dawn.pbnet"),
    ],
    ids=["missing", "no folder", "empty", "cut", "garbage", "of another stage"],
)  # fmt: skip
def test_a_wrong_checkpoint_is_named(spoil, says, bench, runs, refused, generate, tmp_path):
    path = checkpoint(runs, "a2v2")
    spoil(path, runs)
    line = refused(*generate(f"runs={runs}"))
    assert says in line
    assert "a2v2" in line
    assert not (tmp_path / "o.mp4").exists()


def test_a_spoilt_checkpoint_stops_fit_and_stays(bench, runs, refused):
    path = checkpoint(runs, "a2v2")
    path.write_bytes(path.read_bytes()[:5000])
    before = path.read_bytes()
    assert "cannot be read" in refused("fit", *bench.dawn, f"runs={runs}")
    assert path.read_bytes() == before


# A user's own files


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ({"image": "no.png"}, "There is no file"),
        ({"image": "."}, "There is no file"),
        ({"image": "wall.png"}, "No face was found"),
        ({"image": "cut.png"}, "is no image that can be read"),
        ({"image": "me.wav"}, "is no image that can be read"),
        ({"audio": "no.wav"}, "There is no file"),
        ({"audio": "empty.wav"}, "is empty"),
        ({"audio": "text.wav"}, "is no video or audio file"),
        ({"audio": "cut.wav"}, "is no video or audio file"),
        ({"audio": "header.wav"}, "without audio in it"),
        ({"audio": "cut.mp4"}, "without audio in it"),
        ({"audio": "mute.mp4"}, "has no audio"),
        ({"audio": "me.png"}, "has no audio"),
        ({"motion": "no.mp4"}, "There is no file"),
        ({"motion": "mute.mp4"}, "no face was found"),
        ({"motion": "me.wav"}, "has no video track"),
        ({"motion": "text.wav"}, "is no video or audio file"),
    ],
    ids=str,
)
def test_wrong_files_get_one_line(named, says, generate, files, refused, tmp_path):
    motion = ["--motion", files / named.pop("motion")] if "motion" in named else []
    assert says in refused(*generate(*motion, **named))
    assert everything(tmp_path) == []


def test_where_a_video_may_go(generate, files, refused, tmp_path):
    there = tmp_path / "there.mp4"
    there.write_bytes(b"mine")
    assert "add --force" in refused(*generate(out=there))
    assert "must end in .mp4" in refused(*generate(out=tmp_path / "o.avi"))
    assert "is no folder" in refused(*generate(out=files / "me.wav" / "o.mp4"))
    (tmp_path / "folder.mp4").mkdir()
    assert "exists" in refused(*generate("--force", out=tmp_path / "folder.mp4"))
    assert there.read_bytes() == b"mine"
    assert len(everything(tmp_path)) == 2


def test_a_failure_does_not_take_the_old_video(generate, refused, tmp_path):
    (tmp_path / "o.mp4").write_bytes(b"mine")
    refused(*generate("--force", audio="header.wav"))
    assert (tmp_path / "o.mp4").read_bytes() == b"mine"


# Scoring


def test_the_protocol_that_nobody_named_is_told(bench, tmp_path, capsys, monkeypatch):
    """One line, and what is told is what is taken."""
    taken = []

    def scored(videos, reference, rule, *, named, **_):
        taken.append((rule.name, named))
        raise UserError("enough")

    monkeypatch.setattr("thbench.evaluation.score.score", scored)
    clips = bench.data / "clips"
    for reference, more in ((bench.data, []), (clips, []), (clips, ["--protocol", "synthetic"])):
        words = ["score", clips, "--reference", reference, *more]
        assert main([str(w) for w in words]) == 2
    told = capsys.readouterr().out.splitlines()
    assert taken == [("synthetic", False), ("dawn", False), ("synthetic", True)]
    assert len(told) == 2
    assert told[0].startswith("protocol synthetic, for synthetic faces; another: --protocol NAME")
    assert told[1].startswith("protocol dawn, for recordings; another: --protocol NAME")


def test_score_says_what_is_wrong(bench, files, refused, tmp_path):
    clips = bench.data / "clips"
    assert "is named like a clip" in refused(
        "score", files.folder, "--reference", bench.data, "--results", tmp_path
    )
    assert "no clips of split 'tset'" in refused(
        "score", clips, "--reference", bench.data, "--split", "tset"
    )
    blocked = files / "me.wav" / "results"
    assert "is no folder" in refused(
        "score", clips, "--reference", bench.data, "--results", blocked
    )
    assert everything(tmp_path) == []


def test_score_of_unreadable_videos(bench, tmp_path, capsys):
    for name in ("p0003-00", "p0004-00"):
        (tmp_path / f"{name}.mp4").write_bytes(b"no video")
    words = ["score", tmp_path, "--reference", bench.data, "--results", tmp_path / "r"]
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.split("\r")[-1].strip().splitlines()[-1]
    assert line.startswith("thbench: None of the 2 pairs could be scored; the first: ")
    assert not (tmp_path / "r").exists()


def test_check_finds_damage(bench, tmp_path, capsys):
    assert main(["data", "check", str(bench.data)]) == 0
    shutil.copytree(bench.data, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    clip = tmp_path / "data" / "clips" / "p0001-00.mp4"
    clip.write_bytes(clip.read_bytes()[:-100])
    (tmp_path / "data" / "clips" / "p0002-00.npz").unlink()
    capsys.readouterr()
    assert main(["data", "check", str(tmp_path / "data")]) == 2
    shown = capsys.readouterr()
    assert "p0001-00" in shown.out
    assert "p0002-00" in shown.out
    assert shown.err.splitlines()[-1].endswith("problem(s); see above.")


def test_a_nested_tree_behind_a_link_is_prepared_beside_itself(bench, tmp_path, capsys, refused):
    """Emotions below people, one person's folder elsewhere, and --out inside the source."""
    source, out = tmp_path / "videos", tmp_path / "videos" / "prepared"
    places = ["videos/M0/happy/1.mp4", "videos/M0/sad/1.mp4", "disk/M1/happy/1.mp4"]
    for place, name in zip(places, ("p0000-00", "p0001-00", "p0002-00"), strict=True):
        (tmp_path / place).parent.mkdir(parents=True)
        shutil.copy(bench.data / "raw" / f"{name}.mp4", tmp_path / place)
    (source / "M1").symlink_to(tmp_path / "disk" / "M1")
    words = ["data", "prepare", "folder", str(source), "--out", str(out), "--size", "64"]
    words += ["--crop", "none", "--workers", "1"]

    def prepared(*more):
        assert main([*words, *more]) == 0
        return capsys.readouterr().out.splitlines(), manifest.people(out)

    capsys.readouterr()
    lines, first = prepared()
    assert lines[0] == (
        "identities: 2 people from the first folder (M0, M1); --identity names another level"
    )
    people = {name: who for name, (who, _) in first.items()}
    assert people == {"M0/happy/1": "M0", "M0/sad/1": "M0", "M1/happy/1": "M1"}
    assert first["M0/happy/1"] == first["M0/sad/1"]
    assert len(set(first.values())) == 2

    lines, again = prepared()
    assert again == first  # nothing of its own
    assert f"left out: {out}: a prepared data set" in lines
    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}
    lines, moved = prepared("--identity", "-1")
    assert {who for who, _ in moved.values()} == {"happy", "sad"}
    said = "3 of 3 clips that were here have another identity or split"
    assert any(line.startswith(said) for line in lines)
    assert made == {path: path.stat().st_mtime_ns for path in out.rglob("*.mp4")}

    assert "1.mp4 lies in 2 folders, so --identity 3" in refused(*words, "--identity", "3")
    words[words.index(str(out))] = str(source)
    assert "is the folder of the videos" in refused(*words)


# Disks


@pytest.fixture
def cramped(capsys):
    """Run a command while no file may grow beyond ``size`` bytes; the last line that it prints."""

    def run(*words, size):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            code = main([str(word) for word in words])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        err = capsys.readouterr().err
        assert code == 2, err
        line = err.split("\r")[-1].strip().splitlines()[-1]
        assert line.startswith("thbench: ")
        return line

    return run


def test_a_disk_that_is_full_when_a_video_is_written(generate, cramped, tmp_path):
    out = tmp_path / "videos" / "o.mp4"
    assert "could not be written" in cramped(*generate(out=out), size=2000)
    assert everything(tmp_path / "videos") == []


def test_a_disk_that_is_full_when_a_checkpoint_is_written(bench, cramped, tmp_path):
    words = ["fit", *bench.dawn, f"runs={tmp_path}", "stage=lfg", "trainer.sample_every=0"]
    line = cramped(*words, size=60_000)
    assert "No space is left" in line
    assert "goes on from the last checkpoint" in line
    assert not list(tmp_path.rglob("*.ckpt*"))


def test_a_disk_that_is_full_when_clips_are_evaluated(bench, cramped, tmp_path):
    Store(bench.data, "test", 64, "logmel", cache_gb=0).prepare()
    before = made(bench.home)
    words = ["eval", *bench.dawn, "eval.watermark=true", f"results={tmp_path}"]
    assert "could not be written" in cramped(*words, size=2000)
    assert made(bench.home) == before


@pytest.mark.parametrize("code", sorted(parser.DISK))
def test_other_writes_on_a_full_disk(code, monkeypatch, refused):
    def full(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("thbench.cli.commands.show_config", full)
    assert os.strerror(code) in refused("config", "dawn")


def test_a_fault_of_ours_is_not_hidden(monkeypatch):
    def fault(_):
        raise OSError("something else")

    monkeypatch.setattr("thbench.cli.commands.show_config", fault)
    with pytest.raises(OSError, match="something else"):
        main(["config", "dawn"])


def test_results_that_cannot_be_written(bench, files, capsys):
    words = ["eval", *bench.dawn, f"results={files / 'me.wav'}", "eval.limit=1"]
    assert main([str(w) for w in words]) == 2
    assert "could not be written" in capsys.readouterr().err.splitlines()[-1]


# Quiet


@pytest.mark.slow
def test_the_terminal_stays_quiet(bench, files, generate, tmp_path):
    """What a user's terminal shows, in processes of their own, is our own lines alone."""
    results = f"results={tmp_path / 'results'}"
    seen = {
        "fit": thbench("fit", *bench.dawn, f"runs={tmp_path / 'runs'}", "stage=lfg"),
        "eval": thbench("eval", *bench.dawn, results, "eval.limit=1", "trainer.progress=true"),
        "generate": thbench(*generate(out=tmp_path / "o.mp4")),
        "leaderboard": thbench(
            "leaderboard", "--results", tmp_path / "results", "--out", tmp_path / "tables"
        ),
    }
    for name, done in seen.items():
        assert done.returncode == 0, (name, done.stderr)
        text = done.stdout + done.stderr
        assert not [word for word in NOISE if word in text], (name, text)
    assert seen["fit"].stderr == ""
    assert "1 of 1 clips scored" in seen["eval"].stdout
    assert f"{tmp_path / 'o.mp4'}: 25 frames" in seen["generate"].stdout
    (result,) = (tmp_path / "results").glob("*.json")
    assert json.loads(result.read_text())["origin"] == "smoke"
    assert (tmp_path / "tables" / "README.md").is_file()


def test_eval_names_the_run_that_differs_in_precision_alone(bench, refused):
    said = refused("eval", *bench.dawn, "stages.lfg.precision=bf16-mixed")
    (run,) = bench.runs.glob("lfg-*")
    assert f"{run} is trained with precision=32-true (here bf16-mixed)" in said
