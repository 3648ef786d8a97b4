"""Code that computes something else has another version: see ``tests.fingerprints``."""

import functools
import json
from dataclasses import replace

import pytest
import torch

from baselines.fd2talk.lip import LipStage
from baselines.fd2talk.morphable import MorphableStage
from baselines.fd2talk.motion import MotionStage
from tests import fingerprints
from tests.fingerprints import LARGE, cases, differences, verdict

MOTION = "fd2talk.motion tiny"


def recorded():
    """Those of ``make test``; networks of the paper's size take seconds each."""
    for name in fingerprints.read():
        if name not in LARGE:
            yield pytest.param(name, marks=[pytest.mark.slow] if "paper" in name else [])


@pytest.mark.parametrize("name", recorded())
def test_it_computes_what_it_did_under_the_same_version(name):
    case = cases()[name]
    wrong = verdict(case, fingerprints.read().get(name), case.values())
    assert not wrong, wrong


def test_the_record_has_each_case_and_no_other():
    assert set(fingerprints.read()) == set(cases())


def test_a_number_may_differ_by_rounding_alone():
    before = {"loss": 2.0, "zero": 0.0}
    assert not differences(before, {"loss": 2.0015, "zero": 5e-7})
    assert differences(before, {"loss": 2.005, "zero": 0.0}) == ["loss was 2 and is 2.005"]
    assert len(differences(before, {"zero": 1e-4})) == 2


@pytest.fixture(scope="module")
def other_loss():
    """The numbers of the motion stage with another weight in its loss."""
    made = MotionStage.__init__

    @functools.wraps(made)  # whose arguments are checked
    def init(stage, *given, **options):
        made(stage, *given, **options)
        stage.weights["exp"] *= 1.1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MotionStage, "__init__", init)
        return cases()[MOTION].values()


def test_another_loss_under_the_same_version_is_found_and_its_class_named(other_loss):
    said = verdict(cases()[MOTION], fingerprints.read()[MOTION], other_loss)
    assert "raise `version` of baselines.fd2talk.motion:MotionStage" in said
    assert "loss was" in said


@pytest.mark.parametrize("kind", [MotionStage, LipStage, MorphableStage])
def test_where_a_version_was_raised_it_says_how_to_record_anew(other_loss, monkeypatch, kind):
    """The stage's own, or that of one that it builds on."""
    monkeypatch.setattr(kind, "version", 99)
    said = verdict(cases()[MOTION], fingerprints.read()[MOTION], other_loss)
    assert "99" in said
    assert f"python -m tests.fingerprints '{MOTION}'" in said
    assert "raise" not in said


def test_another_configuration_is_no_change_of_the_code():
    case = replace(cases()[MOTION], settings="other")
    said = verdict(case, fingerprints.read()[MOTION], {})
    assert "configured otherwise" in said
    assert "raise" not in said
    assert "is not recorded" in verdict(case, None, {})


def test_recording_refuses_what_changed_without_a_version(monkeypatch, tmp_path, capsys):
    record = tmp_path / "fingerprints.json"
    monkeypatch.setattr(fingerprints, "RECORD", record)
    assert fingerprints.main(["draws"]) == 0
    known = json.loads(record.read_text())
    known["draws"]["values"]["clips"] += 1
    record.write_text(json.dumps(known))
    assert fingerprints.main(["draws"]) == 1
    assert json.loads(record.read_text()) == known
    assert "refused: draws: clips was" in capsys.readouterr().out
    known["draws"]["versions"]["stage"] = [0]
    record.write_text(json.dumps(known))
    assert fingerprints.main(["draws"]) == 0
    assert json.loads(record.read_text()) != known


def test_the_numbers_do_not_depend_on_what_ran_before():
    name = "diffused_heads.frame tiny"
    first = cases()[name].values()
    torch.manual_seed(77)
    torch.rand(5)
    before = torch.random.get_rng_state()
    assert cases()[name].values() == first
    assert torch.equal(torch.random.get_rng_state(), before)
