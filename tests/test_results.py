import dataclasses
import json
import subprocess
import sys

import pytest

from thbench.core import files, provenance
from thbench.core.errors import UserError
from thbench.evaluation import results
from thbench.evaluation.results import (
    ClipRow,
    Coverage,
    DataRef,
    MetricValue,
    ProtocolRef,
    Result,
    read,
    write,
)


def example(**changes):
    fields = {
        "run": "dawn-1",
        "strategy": "dawn",
        "title": "DAWN",
        "origin": "measured",
        "protocol": ProtocolRef("synthetic", "abc"),
        "data": DataRef("synth", "123", "test", "9"),
        "metrics": {
            "PSNR": MetricValue(30.0, "higher", (29.0, 31.0), n=4, unit="dB", notes=("few",)),
            "FID": MetricValue(None, "lower", unavailable="download it"),
        },
        "coverage": Coverage(5, 4, 1, ("x",), ("y",), {"z": "empty"}),
        "cost": results.CostSummary(1.0, 0.5, 25, 20, 20, 500, "CPU", 3),
        "seeds": (0, 1),
        "samples_seen": 100,
        "per_clip": (ClipRow("a", metrics={"PSNR": 30.0, "Blink/s": None}),),
        **provenance.provenance(),
    }
    return Result(**{**fields, **changes})


def test_a_result_comes_back_as_it_was(tmp_path):
    result = example()
    path = write(result, tmp_path / "new")
    assert path == tmp_path / "new" / "dawn-1.json"
    assert read(path) == result
    assert "per_clip" not in json.loads(path.read_text())
    assert len((tmp_path / "new" / "dawn-1.clips.jsonl").read_text().splitlines()) == 1
    assert results.read_folder(path.parent) == [result]


def test_a_result_from_before_a_block_was_added_is_read(tmp_path):
    path = write(example(), tmp_path)
    content = json.loads(path.read_text())
    del content["by"], content["coverage"]["encodings"], content["sha256"]
    for value in content["metrics"].values():
        del value["control"]
    path.write_text(json.dumps(content))
    assert read(path) == example(created=content["created"])


def test_a_clip_s_line_has_the_keys_that_it_always_had(tmp_path):
    """Damaged frames stand there only where there are some; a line without newer keys is read."""
    whole = ClipRow("a", 1, 2, (2, 3), {"M": None}, {"M": 1.5}, {"M": (0.5, None)})
    hurt = dataclasses.replace(whole, damaged={"reference": 2})
    path = write(example(per_clip=(whole, hurt)), tmp_path)
    beside = path.with_suffix(".clips.jsonl")
    first, second = beside.read_text().splitlines()
    assert first == (
        '{"id": "a", "seed": 1, "frames": 2, "lengths": [2, 3], "metrics": {"M": null},'
        ' "reference": {"M": 1.5}, "over_time": {"M": [0.5, null]}}'
    )
    assert json.loads(second) == {**json.loads(first), "damaged": {"reference": 2}}
    damage(path, lambda c: c.pop("sha256"))
    beside.write_text('{"id": "a", "metrics": {"M": 2}}\n')
    assert read(path).per_clip == (ClipRow("a", metrics={"M": 2.0}),)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "jsonl, line 2 lacks 'id'"),
        ('{"id": "a", "metrics": {"M": "1"}}', "line 2: metrics: M must be of type float"),
        ('{"id": "a", "metric": {}}', r"no key 'metric'\. Did you mean 'metrics'"),
        ("{", "is damaged"),
    ],
)
def test_wrong_lines_of_clips_are_explained(line, message, tmp_path):
    path = write(example(), tmp_path)
    with path.with_suffix(".clips.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        read(path)


def test_nan_is_never_written(tmp_path):
    bad = example(metrics={"PSNR": MetricValue(float("nan"), "higher")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(bad, tmp_path)
    assert not (tmp_path / "dawn-1.json").exists()


@pytest.mark.parametrize("run", ["", "a/b", "../a", ".hidden"])
def test_a_run_must_be_a_file_name(run, tmp_path):
    with pytest.raises(UserError, match="cannot name a result"):
        write(example(run=run), tmp_path / "r")
    assert list(tmp_path.rglob("*")) == []


def damage(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(schema_version=99), "has result schema 99"),
        (lambda c: c.update(strateggy="x"), r"no key 'strateggy'\. Did you mean 'strategy'"),
        (lambda c: c.pop("protocol"), "lacks 'protocol'"),
        (lambda c: c.update(origin="mesured"), "Did you mean 'measured'"),
        (lambda c: c["metrics"]["PSNR"].update(value="30"), "PSNR: value must be of type float"),
        (lambda c: c["metrics"]["PSNR"].update(interval=[1]), "must be a list of 2"),
        (lambda c: c["metrics"]["PSNR"].update(direction="up"), "has direction 'up'"),
        (lambda c: c.update(seeds="01"), "seeds must be a list"),
        (lambda c: c.update(samples_seen=True), "must be of type int"),
        (lambda c: c.update(sha256="0" * 64), "was changed, cut short or left out"),
    ],
)
def test_wrong_files_are_explained(change, message, tmp_path):
    path = write(example(), tmp_path)
    damage(path, change)
    with pytest.raises(UserError, match=message):
        read(path)


@pytest.mark.parametrize("what", ["a value", "a title", "a clip", "no clips", "a clip's value"])
def test_a_result_changed_by_hand_is_refused(what, tmp_path):
    path = write(example(per_clip=(ClipRow("a", metrics={"PSNR": 30.0}), ClipRow("b"))), tmp_path)
    beside = path.with_suffix(".clips.jsonl")
    if what == "a value":
        damage(path, lambda c: c["metrics"]["PSNR"].update(value=99.0))
    elif what == "a title":
        damage(path, lambda c: c.update(title="Ours"))
    elif what == "a clip":  # cut at the end of a line
        beside.write_text(beside.read_text().splitlines(keepends=True)[0])
    elif what == "no clips":
        beside.unlink()
    else:
        beside.write_text(beside.read_text().replace("30.0", "31.0"))
    with pytest.raises(UserError, match="was changed, cut short or left out since both were writ"):
        read(path)


def test_line_ends_and_blanks_may_change(tmp_path):
    path = write(example(per_clip=(ClipRow("a\u2028b"), ClipRow("c"))), tmp_path)
    whole = read(path)
    damage(path, lambda c: None)
    beside = path.with_suffix(".clips.jsonl")
    beside.write_text(beside.read_text().replace("\n", "\r\n"), newline="")
    assert read(path) == whole


def test_a_copy_under_another_name_is_refused(tmp_path):
    path = write(example(), tmp_path)
    copy = path.with_name("dawn-2.json")
    copy.write_text(path.read_text())
    with pytest.raises(UserError, match=r"it is the result of 'dawn-1'\. Delete it, or call it"):
        read(copy)


def test_missing_and_damaged_files_are_explained(tmp_path):
    with pytest.raises(UserError, match="There is no result"):
        read(tmp_path / "none.json")
    path = tmp_path / "half.json"
    path.write_text('{"run":')
    with pytest.raises(UserError, match="is not JSON"):
        read(path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, "old")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("thbench.core.files.os.replace", full)
    with pytest.raises(UserError, match="No space left on device"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_provenance_names_packages_and_time():
    found = provenance.provenance()
    assert found["packages"]["torch"]
    assert found["created"].endswith("+00:00")
    assert dataclasses.replace(example(), **found).created == found["created"]


def test_no_torch_is_imported():
    code = (
        "import sys, thbench.evaluation.results, thbench.leaderboard; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
