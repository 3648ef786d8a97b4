"""Embeddings that a prepared folder lacks, what made those that it has, and folders of others."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from tests import toy_training as toy
from thbench.config import DataConfig, DrawConfig
from thbench.core.errors import UserError
from thbench.data import cache_folders
from thbench.data.datamodule import ClipData
from thbench.data.embedding import cache, encoders
from thbench.data.embedding.cache import Embeddings
from thbench.data.embedding.encoders import AudioEncoder
from thbench.data.media import audio
from thbench.data.store import Store
from thbench.generation.requests import SplitRequests


class Loudness(AudioEncoder):
    """Hears how loud a frame is; ``loudness=SOURCE`` has other weights."""

    name = "loudness"
    version = "loudness-1"
    default = "plain"
    dim = default_dim = 2
    loaded = 0
    heard = 0
    fails_after = 99

    def __init__(self, source=None):
        type(self).loaded += 1
        if source == "missing":
            raise UserError("The weights of 'loudness' cannot be had.")
        self.source = source or "plain"
        self.weights = self.source.removeprefix("copy-of-")

    def encode(self, waveform, n_frames):
        type(self).heard += 1
        if Loudness.heard > Loudness.fails_after:
            raise KeyboardInterrupt
        size = np.abs(waveform.reshape(n_frames, -1)).mean(1)
        return np.stack([size, 0 * size + n_frames], 1)


@pytest.fixture(autouse=True)
def _encoder(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS._targets, "loudness", f"{__name__}:Loudness")
    encoders.encoder.cache_clear()
    cache.print_once.cache_clear()
    for name, value in {"loaded": 0, "heard": 0, "fails_after": 99}.items():
        monkeypatch.setattr(Loudness, name, value)
    yield
    encoders.encoder.cache_clear()


@pytest.fixture
def root(tmp_path):
    return toy.make_root(tmp_path / "data", (6, 5, 7), "tve")


@pytest.fixture
def read_only(monkeypatch):
    """Folders below which nothing can be written, however that comes about."""
    closed = []
    real = cache_folders.writable

    def writable(folder):
        return not any(place in folder.parents for place in closed) and real(folder)

    for module in (cache_folders, cache):
        monkeypatch.setattr(module, "writable", writable)
    return closed


def tree(root: Path):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def store(root, encoder="loudness", **options):
    return Store(root, "train", toy.SIZE, encoder, **options)


def module(root, encoder="loudness", **options):
    data = DataConfig("toy", str(root), encoder, **options)
    return ClipData(data, DrawConfig(2), 1, size=toy.SIZE)


def test_what_is_missing_is_made_of_the_clips_own_sound_with_one_load(root):
    data = module(root)
    data.prepare_data()
    assert data.audio_dim == 2
    folder = root / "audio" / "loudness"
    assert len(list(folder.rglob("*.npy"))) == 3  # of every split: what is tested hears too
    assert (Loudness.loaded, Loudness.heard) == (1, 3)
    waveform = audio.load(root / "clips/person0/clip.mp4")
    expected = encoders.encoder("loudness")(waveform, 6)
    assert np.array_equal(np.load(folder / "person0/clip.npy"), expected)
    assert expected[:, 0].min() > 0.01
    batch = data.dataset("train").batch(0, range(1))
    assert np.array_equal(batch.audio[0].numpy(), expected[batch.frames[0].numpy()])
    row = json.loads((folder / "encoder.json").read_text())
    assert row == {"version": "loudness-1", "source": "plain", "weights": "plain"}
    before = tree(root)
    module(root).prepare_data()
    SplitRequests(DataConfig("toy", str(root), "loudness"), "test", toy.SIZE)
    assert Loudness.heard == 4  # one of them here
    assert {p: t for p, t in tree(root).items() if "audio" in p.parts} == {
        p: t for p, t in before.items() if "audio" in p.parts
    }


def test_a_run_that_was_stopped_goes_on(root, monkeypatch):
    monkeypatch.setattr(Loudness, "fails_after", 2)
    with pytest.raises(KeyboardInterrupt):
        module(root).prepare_data()
    monkeypatch.setattr(Loudness, "fails_after", 99)
    module(root).prepare_data()
    assert Loudness.heard == 4
    assert len(list((root / "audio/loudness").rglob("*"))) == 2 + 3 * 2  # nothing half-written


def test_two_at_once_hear_each_clip_once(root):
    made = [Embeddings(root, "loudness") for _ in range(4)]
    threads = [threading.Thread(target=one.prepare) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Loudness.heard == 3
    assert not made[0]._missing()


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("loudness=missing", "weights of 'loudness' cannot be had.*--audio loudness=missing"),
        ("lodness", "Did you mean 'loudness'"),
    ],
)
def test_an_encoder_that_is_not_here_is_one_clear_line(root, encoder, says):
    before = tree(root)
    with pytest.raises(UserError, match=f"no '{encoder}' embedding of clip 'person0/clip'.*{says}"):
        module(root, encoder).prepare_data()
    assert tree(root) == before


def test_embeddings_of_another_version_or_of_other_weights_are_refused(root, monkeypatch, capsys):
    module(root).prepare_data()
    module(root, "loudness=copy-of-plain").prepare_data()  # the same weights in another place
    with pytest.raises(
        UserError, match=r"other weights \(plain\) than other: delete .*loudness to"
    ):
        module(root, "loudness=other").prepare_data()
    with pytest.raises(UserError, match="other weights"):
        cache.claim(root / "audio" / "loudness", "loudness=other")  # as `data prepare` asks
    monkeypatch.setattr(Loudness, "version", "loudness-2")
    with pytest.raises(UserError, match=r"made by loudness-1, not loudness-2: delete .* anew"):
        module(root).prepare_data()


def test_embeddings_that_do_not_say_what_made_them_are_taken_and_others_weights_are_told(
    root, capsys
):
    module(root).prepare_data()
    record = root / "audio/loudness/encoder.json"
    record.write_text(record.read_text().replace("plain", "theirs"))
    module(root).prepare_data()
    assert "made with the weights of theirs, not of plain" in capsys.readouterr().out
    record.unlink()
    module(root).prepare_data()
    module(root).prepare_data()
    assert capsys.readouterr().out.count("does not say what made it: taken as loudness-1's") == 1
    record.write_text("{")
    with pytest.raises(UserError, match=r"encoder\.json cannot be read: delete"):
        module(root).prepare_data()


def test_a_data_set_that_cannot_be_written_is_used_as_it_is(
    root, read_only, tmp_path, monkeypatch, capsys
):
    """Caches and embeddings go to the user's folder, once, and nothing to the data."""
    monkeypatch.delenv("THBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = tree(root)
    read_only.append(root)
    data = module(root)
    data.prepare_data()
    kept = tmp_path / "home/.cache/thbench/data"
    said = capsys.readouterr().out
    assert f"{root} cannot be written to: its caches are kept in {kept}" in said
    assert f"into {kept}" in said
    (own,) = kept.iterdir()
    found = data.dataset("train").batch(0, range(1))
    requests = SplitRequests(DataConfig("toy", str(root), "loudness"), "test", toy.SIZE)
    assert requests[0].audio.shape == (7, 2)
    again = module(root)
    again.prepare_data()
    assert Loudness.heard == 3
    assert tree(root) == before
    assert len(list(own.glob("cache/frames-*.npy"))) == 2
    # Beside the data, when it can be written, lies the same.
    read_only.clear()
    other = module(root)
    other.prepare_data()
    assert (root / "cache").is_dir()
    beside = other.dataset("train").batch(0, range(1))
    assert np.array_equal(found.video, beside.video)
    assert np.array_equal(found.audio, beside.audio)
    # What its owner has built is read where it is.
    for path in sorted(kept.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    read_only.append(root)
    store(root, "toy").prepare()
    assert not list(kept.rglob("*.npy"))


def test_a_cache_folder_is_taken_where_it_is_named(root, tmp_path, monkeypatch):
    monkeypatch.setenv("THBENCH_CACHE", str(tmp_path / "named"))
    store(root, "toy").prepare()
    store(root, "toy", cache=str(tmp_path / "chosen")).prepare()
    monkeypatch.delenv("THBENCH_CACHE")
    store(root, "toy").prepare()
    names = {
        where: sorted(p.name for p in (tmp_path / where).rglob("*.npy") if "audio" not in p.parts)
        for where in ("named/data", "chosen", "data/cache")
    }
    assert names["named/data"] == names["chosen"] == names["data/cache"]
    assert len(names["chosen"]) == 4


def test_copies_of_a_data_set_do_not_share_a_cache(root, tmp_path):
    """They may have been measured differently, which their manifests do not say."""
    other = toy.make_root(tmp_path / "copy", (6, 5, 7), "tve")
    found = {cache_folders.elsewhere(place, str(tmp_path / "c")) for place in (root, other)}
    assert len(found) == 2
    assert cache_folders.elsewhere(root, None).parent.name == "data"


def test_whether_a_folder_can_be_written_is_tried(tmp_path, monkeypatch):
    assert cache_folders.writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    assert not cache_folders.writable(tmp_path / "file" / "c")

    def refuse(number):
        def mkdir(*_, **__):
            raise OSError(number, "no")

        return mkdir

    for number, expected in ((30, False), (13, False), (28, True)):  # read only, forbidden, full
        monkeypatch.setattr(Path, "mkdir", refuse(number))
        assert cache_folders.writable(tmp_path / "d") == expected
