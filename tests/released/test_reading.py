"""Files of published weights are read for their tensors alone."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from thbench import config as configs
from thbench.cli.parser import main
from thbench.core.errors import UserError
from thbench.training.released import check_fits, read_tensors


def test_nested_names_are_joined(tmp_path):
    path = tmp_path / "nested.pth"
    x = torch.arange(3.0)
    torch.save({"net": {"layer": {"weight": x}}, "more": [x + 1, {"a": x + 2}], "epoch": 3}, path)
    found = read_tensors(path)
    assert found.keys() == {"net.layer.weight", "more.0", "more.1.a"}
    assert torch.equal(found["more.1.a"], x + 2)


def test_files_from_before_archives_are_read(tmp_path):
    path = tmp_path / "old.pth.tar"
    torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(read_tensors(path)["weight"], torch.ones(2))


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "net.safetensors"
    save_file({"layer.weight": torch.ones(2, 3)}, path)
    assert read_tensors(path)["layer.weight"].shape == (2, 3)


class Scaled(nn.Module):
    """A module with a child, a buffer and a shared, transposed storage."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.layer.weight = nn.Parameter(torch.randn(3, 2).T)
        self.register_buffer("scale", torch.full((2,), 3.0, dtype=torch.float64))
        self.steps = 4

    def forward(self, x):
        return self.layer(x) * self.scale


def test_torchscript_is_read_and_not_run(tmp_path, monkeypatch):
    path = tmp_path / "net.pt"
    net = Scaled()
    torch.jit.trace(net, torch.ones(1, 3)).save(path)
    monkeypatch.setattr(torch.jit, "load", lambda *_: pytest.fail("it was executed"))
    found = read_tensors(path)
    for name, wanted in net.state_dict().items():
        assert torch.equal(found[name], wanted)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("kind", ["saved", "script"])
def test_code_in_a_file_is_refused(tmp_path, capsys, kind):
    path = tmp_path / "bad.pth"
    if kind == "saved":
        torch.save({"net": Harmful()}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("bad/data.pkl", pickle.dumps(Harmful(), protocol=2))
            archive.writestr("bad/constants.pkl", b"")
    with pytest.raises(UserError, match="cannot be read as weights"):
        read_tensors(path)
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "missing.pth", "none.pth"])
def test_other_files_are_named(tmp_path, name):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    with pytest.raises(UserError, match=name):
        read_tensors(tmp_path / name)


def test_what_does_not_fit_is_named_first_few():
    own = {f"layer{i}": torch.ones(1) for i in range(5)}
    with pytest.raises(UserError, match="lack layer0, layer1, layer2 and 2 more"):
        check_fits(own, {}, "stage 'net'")
    with pytest.raises(UserError, match="no place for more"):
        check_fits(own, {**own, "more": torch.ones(1)}, "stage 'net'")
    with pytest.raises(UserError, match=r"layer3 \(2,\) for \(1,\)"):
        check_fits(own, {**own, "layer3": torch.ones(2)}, "stage 'net'")


# options=released


def test_released_options_are_a_layer_above_the_scale():
    plain = configs.load("dawn", ["scale=paper"])
    made = configs.load("dawn", ["scale=paper", "options=released", "options.guidance=2"])
    assert made.stages["lfg"].model["net"]["norm"] == "batch"
    assert made.stages["a2v2"].model["net"]["split"] == [2, 1]
    assert made.options == {"guidance": 2}
    assert "net" not in plain.stages["lfg"].model
    last = ["options=released", "stages.lfg.model.net.norm=group"]
    assert configs.load("dawn", last).stages["lfg"].model["net"]["norm"] == "group"


def test_a_strategy_without_released_options_says_so():
    with pytest.raises(UserError, match="'fd2talk' has no released options"):
        configs.load("fd2talk", ["options=released"])


def test_another_word_for_options_gets_the_right_one():
    with pytest.raises(UserError, match="Did you mean 'released'"):
        configs.load("dawn", ["options=relased"])


@pytest.mark.parametrize("system", ["ttr", "fd2talk"])
def test_systems_without_published_weights_say_so(system, tmp_path, capsys):
    torch.save({"x": torch.ones(1)}, tmp_path / "a.pth")
    assert main(["weights", "import", system, str(tmp_path / "a.pth")]) == 2
    assert "cannot be imported" in capsys.readouterr().err


def test_words_without_files_are_refused(capsys):
    assert main(["weights", "import", "dawn", "scale=tiny"]) == 2
    assert "Say which files" in capsys.readouterr().err


def test_two_files_with_the_same_tensors_are_refused(tmp_path, capsys):
    for name in ("a.pth", "b.pth"):
        torch.save({"generator": {"x": torch.ones(1)}}, tmp_path / name)
    files = [str(tmp_path / name) for name in ("a.pth", "b.pth")]
    assert main(["weights", "import", "dawn", *files]) == 2
    assert "that another file has, such as generator.x" in capsys.readouterr().err
