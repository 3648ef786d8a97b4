"""What other plans are trained on is what they are shown at generation."""

import pytest
import torch

from baselines.windows import WindowStage, gather_frames
from tests.dawn.test_a2v import AUDIO, SIZE, SMALL, Planted, batch
from thbench.config import DrawConfig
from thbench.core.errors import UserError
from thbench.dawn.a2v import A2VStage
from thbench.generation import plans
from thbench.generation.plans import SOURCE
from thbench.training.stage import StageContext

CASES = [
    ({"name": "nar"}, "main", None, 12),
    ({"name": "ar", "motion": 2}, "main", [1, 9], 8),
    ({"name": "ar", "motion": 1, "stabilize": 3}, "main", [1, 9], 8),
    ({"name": "sar", "segment": 6, "overlap": 3}, "main", [4, 20], 12),
    ({"name": "ttr", "stride": 4}, "keys", None, 14),
    ({"name": "ttr", "stride": 4}, "gaps", [5, 30], 8),
    ({"name": "ttr", "stride": 4, "single_model": True}, "main", None, 14),
    ({"name": "rolling", "window": 5, "context": 2}, "main", [3, 20], 8),
]


def stage(plan, window="main", clip=None, net=SMALL, **options):
    torch.manual_seed(1)
    context = StageContext(size=SIZE, audio_dim=AUDIO, needs={"lfg": Planted()})
    return WindowStage(context, plan=plan, window=window, clip=clip, net=net, **options)


def shown_to(trained, batches):
    """The arguments of each call of the network while it is trained."""
    calls = []

    def record(noisy, t, frames, given, keep):
        calls.append({"noisy": noisy, "t": t, "frames": frames, "given": given, "keep": keep})
        return torch.zeros_like(noisy)

    trained.net.forward = record
    for i, drawn in enumerate(batches):
        torch.manual_seed(i)
        trained.loss(drawn)
    return calls


def pattern(frames, n_seen):
    """Places relative to the first frame that is made, the portrait as it is, and who is seen."""
    first = frames[n_seen]
    return tuple(int(f) if f < 0 else int(f - first) for f in frames), n_seen


@pytest.mark.parametrize(("plan", "window", "clip", "drawn"), CASES, ids=str)
def test_training_shows_the_windows_of_the_plan_and_all_kinds_of_them(plan, window, clip, drawn):
    least, most = clip or (drawn, drawn)
    kinds = {
        pattern((*w.observe, *w.generate), len(w.observe))
        for n in range(least, most + 1)
        for w in plans.windows(plans.build(n=n, **plan))
        if w.model == window
    }
    trained, data = stage(plan, window, clip), batch(2, drawn)
    found = set()
    for _ in range(200):
        chosen, high = trained.draw_window(drawn)
        places = trained.place_windows(chosen, data).flatten(0, 1)
        assert places.max() < drawn
        n_seen = len(chosen.observe)
        t = trained.levels_of(chosen, high, places.shape[:1], "cpu")
        assert (t[:, :n_seen] == 0).all()
        assert (t[:, n_seen:] > 0).all()
        found |= {pattern(row, n_seen) for row in places.tolist()}
    assert found <= kinds
    assert len(found) > 0.8 * len(kinds)


def test_a_window_is_laid_at_every_place_that_the_drawn_frames_have_for_it():
    trained, data = stage({"name": "sar", "segment": 6, "overlap": 3}, clip=[20, 20]), batch(2, 13)
    window = plans.sar(20, 6, 3)[1][0]
    begins = torch.cat([trained.place_windows(window, data)[..., 0] for _ in range(50)], dim=1)
    for clip in begins:
        assert set(clip.tolist()) == set(range(13 - 9 + 1))
    assert not torch.equal(*begins)


@pytest.mark.parametrize(("plan", "window", "clip", "drawn"), CASES, ids=str)
def test_observed_frames_are_clean_and_in_their_true_places(plan, window, clip, drawn):
    """The planted flow is the frame's colour, which its sound counts, so places can be told."""
    data = batch(2, drawn, seed=3)
    colour = data.video[:, :, :, 0, 0].float() / 255
    portrait = data.source.float().mean((2, 3)) / 255
    first = int(data.frames[0, 0])
    for call in shown_to(stage(plan, window, clip).eval(), [data] * 12):
        per_clip = len(call["frames"]) // 2
        for row, (frames, t) in enumerate(zip(call["frames"], call["t"], strict=True)):
            clip_of = row // per_clip
            for j in (t == 0).nonzero()[:, 0].tolist():
                i = int(frames[j])
                wanted = portrait[clip_of] if i == SOURCE else colour[clip_of, i - first]
                seen = call["noisy"][row, :, j].mean((1, 2))
                torch.testing.assert_close(seen[:2], wanted[:2] - 0.5, rtol=1e-3, atol=1e-4)
            for j, i in enumerate(frames.tolist()):
                if i >= 0:
                    sound = call["given"].tokens["audio"][row, j]
                    torch.testing.assert_close(sound, data.audio[clip_of, i - first])


def test_observed_frames_are_noisy_in_training_alone_where_that_is_asked_for():
    plan, data = {"name": "ar", "motion": 2}, batch(6, 8)
    quiet, loud = (stage(plan, clip=[4, 9], observed_noise=s) for s in (0.0, 0.5))
    clean, noisy = (shown_to(made, [data])[0] for made in (quiet, loud))
    seen = clean["t"] == 0
    assert torch.equal(noisy["t"] == 0, seen)
    added = (noisy["noisy"] - clean["noisy"]).transpose(1, 2)[seen].unflatten(0, (-1, 2))
    both = torch.corrcoef(torch.stack([added[:, 0].flatten(), added[:, 1].flatten()]))
    assert abs(both[0, 1]) < 0.5, "each has its own"
    deviations = added[:, 0].flatten(1).std(1)
    assert 0 < deviations.min() < deviations.max() < 0.65
    loud.eval()
    assert torch.equal(shown_to(loud, [data])[0]["noisy"], clean["noisy"])
    with pytest.raises(UserError, match="observed_noise"):
        stage(plan, observed_noise=-1)


def test_keys_have_their_true_distances_and_end_with_the_last_frame():
    data = batch(2, 14)
    (call,) = shown_to(stage({"name": "ttr", "stride": 4}, "keys"), [data])
    assert (call["frames"] - data.frames[:, :1].repeat_interleave(2, 0)).tolist() == [
        [0, 4, 8, 12, 13]
    ] * 4


def test_a_gap_observes_its_two_keys():
    calls = shown_to(stage({"name": "ttr", "stride": 4}, "gaps", [9, 9]), [batch(1, 5)])
    assert (calls[0]["frames"] - 3).tolist() == [[0, 4, 1, 2, 3]]


@pytest.mark.parametrize(("plan", "window", "clip", "drawn"), CASES, ids=str)
def test_every_plan_learns_from_as_many_frames_of_a_clip(plan, window, clip, drawn):
    for call in shown_to(stage(plan, window, clip), [batch(3, drawn)] * 10):
        windows, length = call["frames"].shape
        assert windows % 3 == 0
        assert drawn - length < windows // 3 * length <= drawn


def test_fewer_frames_can_be_shown():
    trained = stage({"name": "ar", "motion": 2}, clip=[9, 9], shown=6)
    (call,) = shown_to(trained, [batch(3, 12)])
    assert call["frames"].shape == (6, 3)


def test_all_frames_at_once_is_the_training_of_dawn():
    data = batch(2, 6)
    nar, dawn = (
        stage({"name": "nar"}),
        A2VStage(StageContext(size=SIZE, audio_dim=AUDIO, needs={"lfg": Planted()}), net=SMALL),
    )
    shown, latent, given = nar.window_batch(data, nar.place_windows(*nar.draw_window(6)[:1], data))
    expected, wanted = dawn.prepare(data)
    torch.testing.assert_close(latent, expected)
    assert torch.equal(shown.frames, data.frames)
    for kind, token in given.tokens.items():
        torch.testing.assert_close(token, wanted.tokens[kind])
    dawn.net.load_state_dict(nar.net.state_dict())
    noise, t = torch.randn_like(latent), torch.full((2, 6), 300)
    losses = []
    for trained in (nar, dawn):
        torch.manual_seed(0)
        losses.append(trained.error(data, latent, given, noise, t)["loss"])
    assert torch.equal(*losses)


@pytest.mark.parametrize("levels", ["plan", "frame"])
def test_rolling_levels_are_staggered_as_in_the_plan_or_independent(levels):
    trained = stage({"name": "rolling", "window": 5, "context": 2}, clip=[40, 40], levels=levels)
    window = plans.rolling(40, 5, 2)[20][0]
    t = trained.levels_of(window, 5, (500,), "cpu")
    assert (t[:, :2] == 0).all()
    made = t[:, 2:]
    assert made.min() >= 1
    assert made.max() <= 1000
    low, high = (torch.tensor(x) * 200 for x in (window.leave, window.enter))
    staggered = ((made > low) & (made <= high)).all(1)
    if levels == "plan":
        assert staggered.all()
        assert (made.diff(dim=1) - 200).abs().max() <= 1
        assert made[:, 0].unique().numel() > 100
    else:
        assert staggered.float().mean() < 0.05
        assert torch.corrcoef(made.T.float()).triu(1).abs().max() < 0.2


def test_windows_that_fall_whole_have_one_level_from_1_to_the_last():
    trained = stage({"name": "sar", "segment": 6, "overlap": 3}, clip=[12, 12])
    t = trained.levels_of(plans.sar(12, 6, 3)[1][0], 1, (4000,), "cpu")[:, 3:]
    assert (t == t[:, :1]).all()
    counts = torch.histc(t[:, 0].float(), 10, 0.5, 1000.5)
    assert counts.min() > 300


def test_only_frames_to_be_made_count_in_the_loss():
    trained = stage({"name": "sar", "segment": 4, "overlap": 4}, clip=[8, 8])
    window = plans.sar(8, 4, 4)[1][0]
    trained.draw_window = lambda n: (window, 1)

    def spoilt(noisy, t, frames, given, keep):
        return torch.where((t == 0)[:, None, :, None, None], 1e6, torch.zeros_like(noisy))

    trained.net.forward = spoilt
    assert trained.loss(batch(2, 8))["loss"] < 100


def test_the_portrait_stands_in_for_missing_frames_and_is_no_statistic():
    data = batch(2, 5)
    taken = gather_frames(data, torch.tensor([[SOURCE, SOURCE, 0], [SOURCE, 3, 4]]))
    assert taken.frames.tolist() == [[SOURCE, SOURCE, 3], [SOURCE, 6, 7]]
    assert torch.equal(taken.video[0, 1], data.source[0])
    assert torch.equal(taken.video[1, 1], data.video[1, 3])
    assert torch.equal(taken.pose[1, 0], data.source_pose[1])
    assert taken.valid.tolist() == [[False, False, True], [False, True, True]]
    trained = stage({"name": "ar", "motion": 2}, clip=[1, 1])
    counted = {}
    trained.net.observe_statistics = lambda flow, occlusion, motion, **c: counted.update(
        flow=flow, occlusion=occlusion, motion=motion, **c
    )
    trained.train()
    trained.loss(batch(2, 6))
    assert {len(value) for value in counted.values()} == {4}  # two windows of one frame each


def test_what_is_observed_is_put_to_use():
    """Without sound, only the frames before say which flow a clip has."""
    torch.manual_seed(0)
    net = {"dim": 8, "mults": (1,), "heads": 1, "head_dim": 8, "process": {"prediction": "x0"}}
    trained = stage({"name": "sar", "segment": 3, "overlap": 2}, clip=[9, 9], net=net, dropout=1.0)
    window = plans.sar(9, 3, 2)[1][0]
    trained.draw_window = lambda n: (window, 1)
    optimizer = torch.optim.AdamW(trained.net.parameters(), 1e-2)

    def flat(seed):
        data = batch(4, 5, seed=seed)
        data.video = data.video[:, :1].expand_as(data.video)
        return data

    def error(data):
        shown, latent, given = trained.window_batch(data, trained.place_windows(window, data))
        t = torch.full(shown.frames.shape, 990)
        t[:, :2] = 0
        torch.manual_seed(7)
        return trained.error(shown, latent, given, torch.randn_like(latent), t)["simple"]

    for seed in range(40):
        optimizer.zero_grad()
        trained.loss(flat(seed))["loss"].backward()
        optimizer.step()
    fresh = flat(999)
    with torch.no_grad():
        told = error(fresh)
        lying = flat(998)
        real = trained.prepare(lying)[0]
        prepare = trained.prepare
        trained.prepare = lambda shown: (
            torch.cat([real[:, :, :2], prepare(shown)[0][:, :, 2:]], dim=2),
            prepare(shown)[1],
        )
        lied_to = error(fresh)
    assert told < 0.7 * lied_to


@pytest.mark.parametrize(("plan", "window", "clip", "drawn"), CASES, ids=str)
def test_samples_show_the_window(plan, window, clip, drawn):
    videos = stage(plan, window, clip).eval().samples(batch(2, drawn))
    if plan["name"] == "rolling":
        assert videos == {}  # from pure noise alone, such a net makes nothing
    else:
        assert videos["generated"].shape[1:] == (3, SIZE, 2 * SIZE)


def test_what_it_was_trained_for_is_said():
    trained = stage({"name": "ttr", "stride": 4}, "gaps").trained_for()
    assert trained["plan"] == {"name": "ttr", "stride": 4, "single_model": False}
    assert (trained["window"], trained["observed"], trained["levels"]) == ("gaps", 2, "clip")
    assert (
        stage({"name": "rolling", "window": 4}, levels="frame").trained_for()["levels"] == "frame"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plan": {"name": "sra"}}, "Did you mean 'sar'"),
        ({"plan": {"name": "sar", "overlp": 2}}, "Did you mean 'overlap'"),
        ({"plan": {"name": "ttr"}}, "one of plan 'ttr': keys, gaps"),
        ({"plan": {"name": "nar"}, "levels": "clip"}, "levels must be 'plan' or 'frame'"),
        ({"plan": {"name": "nar"}, "clip": [5, 2]}, "clip must be"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        stage(**options)


def test_a_draw_that_is_too_short_is_told_before_any_step():
    sar = stage({"name": "sar", "segment": 10, "overlap": 4}, clip=[10, 30])
    sar.check_draw(DrawConfig(14))
    with pytest.raises(UserError, match=r"spans 14 frames, and the stage draws 6.*draw\.frames"):
        sar.check_draw(DrawConfig([6, 20]))
    gaps = stage({"name": "ttr", "stride": 4}, "gaps")
    with pytest.raises(UserError, match=r"2 frames has no window 'gaps'.*draw\.least"):
        gaps.check_draw(DrawConfig(20, least=2))
    with pytest.raises(UserError, match="no window 'gaps'"):
        gaps.draw_window(2)


def test_of_clips_shorter_than_a_window_the_plan_s_own_windows_are_shown():
    """32 frames, as CREMA-D's shortest: SAR makes them in one segment, keys end with the last."""
    sar = stage({"name": "sar", "segment": 40, "overlap": 10}, clip=[41, 200])
    drawn = {sar.draw_window(32)[0] for _ in range(200)}
    assert plans.sar(32, 40, 10)[0][0] in drawn
    assert max(max(window.generate) for window in drawn if not window.observe) == 31
    assert all(len(window.generate) <= 32 for window in drawn)
    keys = stage({"name": "ttr", "stride": 8}, "keys")
    assert keys.draw_window(32)[0].generate == (0, 8, 16, 24, 31)
    (call,) = shown_to(sar, [batch(2, 32)])
    assert call["frames"].shape[1] <= 32
