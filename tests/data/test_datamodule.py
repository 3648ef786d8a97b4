import pickle
import threading
import time
from dataclasses import fields

import numpy as np
import pytest
import torch

from tests import toy_training as toy
from thbench.config import DataConfig, DrawConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.data.datamodule import (
    ENDLESS,
    ClipData,
    RankDataset,
    RankShard,
    TrainLoader,
    read_digest,
)
from thbench.data.dataset import PreparedDataset, jitter, window_starts
from thbench.data.media import video
from thbench.data.media.video import VideoWriter
from thbench.data.store import Store, build_once, resize


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return toy.make_root(tmp_path_factory.mktemp("data"), (8, 9, 12, 40, 7, 11), "tttttv")


def open_store(root, **options):
    store = Store(root, **{"split": "train", "size": toy.SIZE, "audio": "toy", **options})
    store.prepare()
    return store


def make(root, frames=3, batch_size=4, seed=0, source="random", options=None, **draw):
    store = open_store(root, **(options or {}))
    return PreparedDataset(store, DrawConfig(frames, source, **draw), batch_size, seed)


def equal(a: Batch, b: Batch):
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch)]
    return all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in pairs)


def test_a_batch_is_what_the_contract_says(root):
    batch = make(root).batch(5, range(4))
    s = toy.SIZE
    shapes = {
        "video": (4, 3, 3, s, s), "source": (4, 3, s, s), "audio": (4, 3, 3), "pose": (4, 3, 6),
        "eyes": (4, 3, 2), "landmarks": (4, 3, 478, 3), "valid": (4, 3), "source_pose": (4, 6),
        "source_eyes": (4, 2), "source_landmarks": (4, 478, 3), "frames": (4, 3),
        "source_frame": (4,), "extent": (4, 2, 478, 2),
    }  # fmt: skip
    assert {name: tuple(getattr(batch, name).shape) for name in shapes} == shapes
    kinds = {"video": torch.uint8, "valid": torch.bool, "frames": torch.int64}
    for name in shapes:
        default = torch.uint8 if name == "source" else torch.float32
        default = torch.int64 if name == "source_frame" else default
        assert getattr(batch, name).dtype == kinds.get(name, default), name


def test_everything_in_a_sample_belongs_to_the_same_frames(root):
    batch = make(root).batch(1, range(4))
    for j, id in enumerate(batch.ids):
        clip, frames, source = int(id[6]), batch.frames[j], batch.source_frame[j]
        assert frames.tolist() == list(range(int(frames[0]), int(frames[0]) + 3))
        wanted = toy.grey(clip, frames).float()
        assert (batch.video[j].float().mean((1, 2, 3)) - wanted).abs().max() <= 3  # lossy video
        assert abs(batch.source[j].float().mean() - toy.grey(clip, source).float()) <= 3
        assert torch.equal(batch.audio[j, :, 1], frames.float() + clip)
        assert torch.equal(batch.pose[j, :, 0], frames.float() + 100 * clip)
        assert batch.source_pose[j, 0] == source + 100 * clip
        assert torch.allclose(batch.eyes[j, :, 0], frames / 100)
        assert (batch.landmarks[j] == clip).all()
        assert torch.equal(batch.valid[j], frames != 1)


def test_batches_are_functions_of_seed_batch_and_slot(root):
    dataset = make(root, frames=[2, 4])
    whole = dataset.batch(7, range(4))
    dataset.batch(3, range(4))
    assert equal(whole, dataset.batch(7, range(4)))
    assert equal(whole, pickle.loads(pickle.dumps(make(root, frames=[2, 4]))).batch(7, range(4)))
    assert equal(dataset.batch(7, [2]), dataset.batch(7, [2]))
    assert dataset.batch(7, [2]).ids == whole.ids[2:3]
    assert torch.equal(dataset.batch(7, [2]).frames[0], whole.frames[2])
    assert not equal(whole, dataset.batch(8, range(4)))
    assert not equal(whole, make(root, frames=[2, 4], seed=1).batch(7, range(4)))


def test_extents_are_of_the_whole_clip_where_a_face_was_found(tmp_path):
    """A clip that moves to the right, but for a frame without a face far to the left."""
    root = toy.make_root(tmp_path, (6, 5), "tt")
    path = root / "clips/person0/clip.npz"
    with np.load(path) as file:
        arrays = dict(file)
    points = np.zeros((6, 478, 3), np.float16)
    points[:, :, 0] = 0.25 + np.arange(6)[:, None] / 16
    points[:, :, 1] = np.arange(478) / 1024
    points[1] = -5  # frame 1 is not valid
    np.savez(path, **{**arrays, "landmarks": points})
    batch = make(root, frames=2, batch_size=2).batch(0, range(2))
    extent = batch.extent[batch.ids.index("person0/clip")].numpy()
    assert (extent[0, :, 0] == 0.25).all()
    assert (extent[1, :, 0] == 0.25 + 5 / 16).all()
    assert (extent[:, :, 1] == points[0, :, 1]).all()
    assert batch.map(lambda tensor: tensor[:1]).extent.shape == (1, 2, 478, 2)


def test_lengths_are_drawn_once_per_batch(root):
    dataset = make(root, frames=[2, 4])
    lengths = [dataset.batch(k, range(4)).frames.shape[1] for k in range(30)]
    assert set(lengths) == {2, 3, 4}


def test_every_clip_is_seen_once_per_pass(root):
    dataset = make(root)  # five clips, batches of four: a pass is no whole number of batches
    ids = [id for k in range(5) for id in dataset.batch(k, range(4)).ids]
    passes = [ids[i : i + 5] for i in range(0, 20, 5)]
    assert all(len(set(seen)) == 5 for seen in passes)
    assert len({tuple(seen) for seen in passes}) > 1


def test_windows_and_portraits_cover_the_clip(root):
    dataset = make(root)
    draws = [dataset.plan(k, j) for k in range(300) for j in range(4)]
    longest = [d for d in draws if dataset.store.clips[d.clip].n_frames == 40]
    # Frame 1 is invalid: it may be no portrait, and windows over it are less than 80% valid.
    assert {d.start for d in longest} == set(range(2, 38))
    assert {d.source for d in longest} == set(range(40)) - {1}
    first = make(root, source="first")
    assert all(first.plan(k, 0).start == first.plan(k, 0).source for k in range(50))


@pytest.mark.parametrize("frames", [1, 3])
def test_the_portrait_may_be_any_other_frame_than_those_to_be_made(tmp_path, frames):
    dataset = make(toy.make_root(tmp_path, (5, 4), "tt"), frames=frames, source="other")
    draws = [dataset.plan(k, j) for k in range(60) for j in range(4)]
    assert all(d.source not in range(d.start, d.start + frames) for d in draws)
    # Frame 1 shows no face: four or three frames do, and one must be left outside a window.
    assert {d.clip for d in draws} == ({0, 1} if frames == 1 else {0})
    assert {d.source for d in draws if d.clip == 0} == ({0, 2, 3, 4} if frames == 1 else {0})
    both = make(tmp_path, frames=frames, source="random")
    found = [both.plan(k, j) for k in range(60) for j in range(4)]
    assert any(d.source in range(d.start, d.start + frames) for d in found)


def test_window_starts():
    valid = np.array([1, 0, 1, 1, 1, 1, 0, 0], bool)
    assert window_starts(valid, 2, first=False).tolist() == [2, 3, 4]
    assert window_starts(valid, 5, first=False).tolist() == [0, 1, 2]  # the best there are
    assert window_starts(valid, 5, first=True).tolist() == [0, 2]
    assert window_starts(valid, 8, first=True).tolist() == [0]
    assert window_starts(np.ones(4, bool), 4, first=False).tolist() == [0]


def test_short_clips_are_left_out(root):
    dataset = make(root, frames=10)
    assert {dataset.plan(k, j).clip for k in range(20) for j in range(4)} == {2, 3}
    with pytest.raises(UserError, match=r"split 'train'.* has 41 frames .*longest has 40.*draw"):
        make(root, frames=41)
    with pytest.raises(UserError, match=r"trainer\.validate_batches=0"):
        make(root, frames=12, options={"split": "val"})
    with pytest.raises(UserError, match="no clips in its split 'test'"):
        make(root, options={"split": "test"})


def test_short_clips_are_taken_whole_where_a_few_frames_will_do(root):
    """Lengths 8, 9, 12, 40, 7 in batches of two: what is drawn is the shorter clip's length."""
    dataset = make(root, frames=20, batch_size=2, least=8)
    assert dataset.left_out == (
        "1 of 5 clips of the split 'train' are left out: they do not have 8 frames from one with a"
        " face on"
    )
    seen = [dataset.batch(k, range(2)) for k in range(40)]
    lengths = {clip.id: min(20, clip.n_frames) for clip in dataset.store.clips}
    for batch in seen:
        n = batch.frames.shape[1]
        assert n == min(lengths[id] for id in batch.ids)
        starts = batch.frames[:, :1]
        assert torch.equal(batch.frames, starts + torch.arange(n))  # no frame twice, none padded
    # Of four clips, those of like length are together: 8 with 9, 12 with 20.
    assert {batch.frames.shape[1] for batch in seen} == {8, 12}
    ids = [id for batch in seen for id in batch.ids]
    assert all(len(set(ids[i : i + 4])) == 4 for i in range(0, 80, 4))  # still once per pass


def test_batches_of_like_length_come_in_random_order(root):
    dataset = make(root, frames=20, batch_size=2, least=8)
    order = [dataset.length(k) for k in range(60)]
    assert order[::2] != sorted(order[::2])
    assert {8, 12} == set(order[::2]) == set(order[1::2])
    assert order == [make(root, frames=20, batch_size=2, least=8).length(k) for k in range(60)]
    assert order != [
        make(root, frames=20, batch_size=2, least=8, seed=3).length(k) for k in range(60)
    ]


def test_where_all_clips_are_long_enough_nothing_is_arranged(root):
    plain, allowed = make(root, frames=7), make(root, frames=7, least=3)
    assert all(equal(plain.batch(k, range(4)), allowed.batch(k, range(4))) for k in range(5))


def test_a_clip_whose_face_comes_late_is_as_short_as_what_is_left(root):
    """With the portrait first, a window begins with a face; of clip 0's 8 frames, 6 are left."""
    dataset = make(root, frames=20, source="first", batch_size=2, least=7)
    assert 0 in dataset.eligible
    motion = np.array(dataset.store._motion)
    motion[int(dataset.store.offsets[0]), -1] = 0  # as frame 1 is in every clip
    dataset.store.__dict__["_motion"] = motion
    assert 0 not in PreparedDataset(dataset.store, dataset.draw, 2).eligible


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        ({"least": 0}, "draw.least"),
        ({"least": 2.5}, "draw.least"),
        ({"frames": 0}, "draw.frames"),
        ({"frames": [3, 2]}, "draw.frames"),
        ({"frames": [1, 2, 3]}, "draw.frames"),
        ({"frames": "all"}, "draw.frames"),
        ({"frames": 2.5}, "draw.frames"),
        ({"source": "last"}, "draw.source"),
        ({"jitter": [0.1]}, "draw.jitter"),
        ({"jitter": [0, 0, 0, 0.6]}, "draw.jitter"),
    ],
)
def test_draws_that_make_no_sense(root, draw, message):
    with pytest.raises(UserError, match=message):
        make(root, **draw)


def test_without_video_nothing_is_decoded(root, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a frame was decoded")

    monkeypatch.setattr("thbench.data.media.video.read", refuse)
    monkeypatch.setattr("thbench.data.media.video.stream", refuse)
    batch = make(root, video=False, options={"video": False, "size": 8}).batch(0, range(4))
    assert batch.video.shape == (4, 3, 3, 0, 0)
    assert batch.source.shape == (4, 3, 0, 0)
    assert batch.pose.shape == (4, 3, 6)


@pytest.mark.parametrize("size", [toy.SIZE, 8, 24])
def test_the_cache_holds_what_decoding_gives(root, size):
    cached = make(root, options={"size": size})
    decoded = make(root, options={"size": size, "cache_gb": 0.0})
    assert cached.store.caches_frames
    assert not decoded.store.caches_frames
    assert equal(cached.batch(3, range(4)), decoded.batch(3, range(4)))


def test_frames_are_decoded_by_what_the_data_block_names(root, monkeypatch):
    used, read = [], video.read
    monkeypatch.setattr(
        "thbench.data.media.video.read", lambda path, at, by: used.append(by) or read(path, at)
    )
    monkeypatch.setattr("thbench.data.media.random_access.has_decord", lambda: True)
    for decoder in ("pyav", "decord"):
        data = DataConfig("toy", str(root), "toy", 0.0, decoder=decoder)
        ClipData(data, DrawConfig(), 4, size=toy.SIZE).stores["train"].frames(0, np.arange(2))
    assert used == ["pyav", "decord"]
    monkeypatch.setattr("thbench.data.media.random_access.has_decord", lambda: False)
    with pytest.raises(UserError, match=r"not installed.*data\.decoder=pyav"):
        open_store(root, decoder="decord")


def test_only_a_small_enough_split_is_cached(root):
    n_bytes = sum(c.n_frames for c in open_store(root).clips) * 3 * toy.SIZE**2
    assert open_store(root, cache_gb=n_bytes / 1e9).caches_frames
    assert not open_store(root, cache_gb=(n_bytes - 1) / 1e9).caches_frames


def stripes(n, size):
    """Columns in fours, two black around two white: a reduction to a quarter that skips pixels
    finds the white ones alone.
    """
    line = torch.tensor([0, 255, 255, 0], dtype=torch.uint8).repeat(size // 4)
    return line.expand(n, 3, size, size)


def test_resizing_is_antialiased():
    small = resize(stripes(1, 16), 4)
    assert small.dtype == torch.uint8
    assert (small[..., 1:-1].float() - 127.5).abs().max() < 20
    assert torch.equal(resize(stripes(1, 16), 16), stripes(1, 16))


@pytest.mark.parametrize("cache_gb", [8.0, 0.0], ids=["cached", "decoded on demand"])
def test_training_sees_fine_patterns_as_grey(tmp_path, cache_gb):
    root = toy.make_root(tmp_path, (6,), "t", size=64)
    with VideoWriter(root / "clips/person0/clip.mp4", 64, 64) as writer:
        writer.write(stripes(6, 64))
    shown = make(root, batch_size=1, options={"size": 16, "cache_gb": cache_gb}).batch(0, [0])
    for pictures in (shown.video, shown.source):
        assert (pictures[..., 1:-1].float() - 127.5).abs().max() < 30


def test_the_cache_is_built_once_and_whole_or_not_at_all(tmp_path):
    path, calls = tmp_path / "cache" / "x.npy", []

    def fill(out):
        calls.append(1)
        time.sleep(0.05)
        out[:] = 3

    threads = [
        threading.Thread(target=build_once, args=(path, (4,), np.uint8, fill)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert np.load(path).tolist() == [3, 3, 3, 3]

    def fail(out):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "cache" / "y.npy", (4,), np.uint8, fail)
    assert sorted(p.name for p in path.parent.iterdir()) == ["x.lock", "x.npy", "y.lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"Cannot write .*writable"):
        build_once(tmp_path / "file" / "z.npy", (4,), np.uint8, fill)


def test_disagreements_are_named(tmp_path):
    root = toy.make_root(tmp_path / "a", (6, 6), "tt")
    with pytest.raises(UserError, match="no 'mel' embedding of clip 'person0/clip'"):
        open_store(root, audio="mel")
    np.save(root / "audio/toy/person1/clip.npy", np.zeros((5, 3), np.float32))
    with pytest.raises(UserError, match="has 5 frames, the manifest says 6"):
        open_store(root)
    np.save(root / "audio/toy/person1/clip.npy", np.zeros((6, 2, 3), np.float32))
    (root / "clips/person1/clip.mp4").write_bytes(
        (toy.make_root(tmp_path / "b", (4,), "t") / "clips/person0/clip.mp4").read_bytes()
    )
    with pytest.raises(UserError, match="has 4 frames, the manifest says 6"):
        open_store(root)
    assert not list((root / "cache").glob("frames*.npy"))
    (root / "clips/person1/clip.mp4").write_bytes(
        (toy.make_root(tmp_path / "c", (200,), "t") / "clips/person0/clip.mp4").read_bytes()
    )  # several chunks beyond the end
    with pytest.raises(UserError, match="has 200 frames, the manifest says 6"):
        open_store(root)
    assert open_store(root, cache_gb=0.0).audio_features(1, np.arange(2)).shape == (
        2,
        6,
    )  # layers in a row
    with pytest.raises(UserError, match="no prepared data set"):
        read_digest(str(tmp_path / "nowhere"))


def test_jitter_is_one_draw_for_all_frames():
    frames = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(4, -1, -1, -1)
    rng = np.random.default_rng
    done = jitter(frames, [0.3, 0.3, 0.3, 0.1], rng(0))
    assert done.dtype == torch.uint8
    assert all(torch.equal(done[0], frame) for frame in done)
    assert not torch.equal(done, frames)
    assert torch.equal(done, jitter(frames, [0.3, 0.3, 0.3, 0.1], rng(0)))
    assert not torch.equal(done, jitter(frames, [0.3, 0.3, 0.3, 0.1], rng(1)))
    assert torch.equal(frames, jitter(frames, [0, 0, 0, 0], rng(0)))
    grey = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    found = {int(jitter(grey, [0.5, 0, 0, 0], rng(i)).float().mean()) for i in range(200)}
    assert min(found) in range(50, 55)
    assert max(found) in range(145, 151)


def test_jitter_reaches_portrait_and_frames_alike(root):
    plain, coloured = (
        make(root).batch(2, range(4)),
        make(root, jitter=[0.5, 0, 0, 0]).batch(2, range(4)),
    )
    assert torch.equal(plain.frames, coloured.frames)
    ratio = coloured.video.float().mean((1, 2, 3, 4)) / plain.video.float().mean((1, 2, 3, 4))
    portrait = coloured.source.float().mean((1, 2, 3)) / plain.source.float().mean((1, 2, 3))
    assert (ratio - portrait).abs().max() < 0.05
    assert (ratio - 1).abs().max() > 0.05


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_ranks_and_parts_share_the_slots(world, accumulate):
    slots = [
        slot
        for part in range(accumulate)
        for rank in range(world)
        for slot in RankShard(8, rank, world, accumulate).slots(part)
    ]
    assert slots == list(range(8))


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match=r"batch_size=8 .*3 device.*accumulate=2.*multiple of 6"):
        RankShard(8, 0, 3, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_goes_on_where_it_was(root, workers):
    dataset = make(root, frames=[2, 4])
    parts = RankDataset(dataset, RankShard(4, 0, 1, 2))
    loader = TrainLoader(parts, workers)
    assert len(loader) == ENDLESS
    assert loader.state_dict() == {"batches": 0}
    iterator = iter(loader)
    for _ in range(6):
        next(iterator)
    assert loader.state_dict() == {"batches": 3}  # what workers have read ahead does not count
    expected = next(iterator)
    iterator.close()
    resumed = TrainLoader(RankDataset(dataset, RankShard(4)), workers)  # no accumulation any more
    resumed.load_state_dict({"batches": 3})
    found = next(iter(resumed))
    assert found.ids[:2] == expected.ids
    assert torch.equal(found.video[:2], expected.video)
    assert resumed.state_dict() == {"batches": 4}


def test_an_error_in_a_worker_stays_one_line(root, monkeypatch):
    dataset = make(root)

    def fail(*_):
        raise UserError("clip x is gone: prepare the data set again.")

    monkeypatch.setattr(dataset, "batch", fail)
    for workers in (0, 1):
        with pytest.raises(UserError) as error:
            next(iter(TrainLoader(RankDataset(dataset, RankShard(4)), workers)))
        assert str(error.value) == "clip x is gone: prepare the data set again."


def test_validation_is_the_same_every_time(root):
    config = DataConfig("toy", str(root), "toy")
    data = ClipData(config, DrawConfig(3), 4, size=toy.SIZE, accumulate=2, validate_batches=2)
    data.prepare_data()
    assert data.validates
    assert data.audio_dim == toy.AUDIO_DIM
    loader = data.val_dataloader()
    first, second = list(loader), list(loader)
    assert len(first) == len(loader) == 4
    assert all(equal(a, b) for a, b in zip(first, second, strict=True))
    assert {id for batch in first for id in batch.ids} == {"person5/clip"}
    off = ClipData(config, DrawConfig(3), 4, size=toy.SIZE, validate_batches=0)
    assert not off.validates
    assert off.val_dataloader() == []
