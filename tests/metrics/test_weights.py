"""The table of weight files, and reading them without running what is in them."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from metrics.weights import WEIGHTS, Weights, WeightsMissing, WeightsUnreadable, find, load_state


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, trap):
        self.trap = str(trap)

    def __reduce__(self):
        return os.mkdir, (self.trap,)


@pytest.mark.parametrize("name", sorted(WEIGHTS))
def test_every_entry_can_be_verified(name):
    entry = WEIGHTS[name]
    digits = entry.sha256 or entry.git_blob
    assert digits
    assert set(digits) <= set("0123456789abcdef")
    assert 8 <= len(entry.sha256 or "") <= 64 or len(entry.git_blob or "") == 40
    assert all(url.startswith("https://") for url in (entry.url, *entry.mirrors))
    assert "/" not in entry.file
    assert entry.licence
    assert entry.used_by
    assert len({e.file for e in WEIGHTS.values()}) == len(WEIGHTS)


def test_what_is_missing_is_told_without_the_machines_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    for name, entry in WEIGHTS.items():
        with pytest.raises(WeightsMissing) as caught:
            find(name)
        text = str(caught.value)
        assert f"thbench weights pull {name}" in text
        assert entry.url in text
        assert str(tmp_path) not in text


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
def test_state_dicts_are_read(tmp_path, kind):
    state = {"a.weight": torch.rand(2, 3), "b": torch.arange(4)}
    path = tmp_path / f"net.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state if kind == "pth" else {"state_dict": state, "epoch": 3}, path)
    found = load_state(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_an_untrusted_pickle_runs_no_code(tmp_path, form):
    trap, path = tmp_path / "sprung", tmp_path / "net.pth"
    content = {"weight": torch.zeros(1), "more": Evil(trap)}
    if form == "plain":
        path.write_bytes(pickle.dumps({"more": Evil(trap)}))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(WeightsUnreadable, match="no file of weights alone") as caught:
        load_state(path)
    assert not trap.exists()
    assert "\n" not in str(caught.value)
    torch.load(path, weights_only=False) if form != "plain" else pickle.loads(path.read_bytes())
    assert trap.exists()  # the trap would have worked


def test_torchscript_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "net.pt")
    with pytest.raises(WeightsUnreadable):
        load_state(tmp_path / "net.pt")


@pytest.mark.parametrize("spoil", [b"", b"nothing", b"\x80\x02garbage." * 99])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_damaged_files(tmp_path, spoil, suffix):
    path = tmp_path / f"net.{suffix}"
    path.write_bytes(spoil)
    with pytest.raises(WeightsUnreadable):
        load_state(path)


def test_cut_files_and_other_content(tmp_path):
    path = tmp_path / "net.pth"
    torch.save({"a": torch.rand(1000)}, path)
    assert zipfile.is_zipfile(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsUnreadable):
        load_state(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsUnreadable, match="other things"):
        load_state(path)
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "none.pth")


def test_an_archive_says_which_member_is_wanted(tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setitem(WEIGHTS, "x", Weights("m.onnx", "https://x/p.zip", "L", member="m.onnx"))
    with pytest.raises(WeightsMissing, match=r"download https://x/p\.zip \(L\) and put its m"):
        find("x")
