from types import SimpleNamespace

import pytest
import torch
from torch import nn

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.core.types import Batch
from thbench.dawn.a2v import A2VStage, sample
from thbench.dawn.a2v_net import A2VNet, A2VNetConfig, FlowDenoiser
from thbench.dawn.lfg import LatentFlowGenerator, SourceFeatures
from thbench.generation.plans import SOURCE
from thbench.nn.regions import FACE, LEFT_EYE, LIPS, RIGHT_EYE, region_mask
from thbench.training.stage import StageContext

SIZE, LATENT, FEATURES, AUDIO = 16, 8, 5, 4
SMALL = {"dim": 16, "mults": (1, 2), "heads": 2, "head_dim": 8}


class Planted(LatentFlowGenerator):
    """A latent flow generator whose flow is the mean colour of the frame."""

    latent_dim = FEATURES

    def __init__(self):
        nn.Module.__init__(self)
        self.calls = []
        self.weight = nn.Parameter(torch.ones(1))

    def latent_size(self, size):
        return size // 2

    def encode(self, source):
        latent = torch.nn.functional.avg_pool2d(source, 2)
        return SourceFeatures(source, (torch.cat([latent, latent[:, :2]], dim=1),))

    def flow(self, source, driving):
        self.calls.append(len(driving))
        colour = driving.mean((2, 3), keepdim=True).expand(-1, -1, LATENT, LATENT)
        return (colour[:, :2] - 0.5) * self.weight, colour[:, 2:]

    def decode(self, features, flow, occlusion):
        return torch.nn.functional.interpolate(torch.cat([flow, occlusion], 1), size=SIZE)


def face(*shape):
    """Landmarks spread over the frame, so that masks are neither empty nor full."""
    return 0.3 + 0.4 * torch.rand(*shape, 478, 3)


def batch(b=2, n=4, seed=0):
    torch.manual_seed(seed)
    audio = torch.rand(b, n, AUDIO)
    level = (audio[..., :3] * 255).to(torch.uint8)[..., None, None]
    return Batch(
        video=level.expand(b, n, 3, SIZE, SIZE),
        source=torch.randint(0, 256, (b, 3, SIZE, SIZE), dtype=torch.uint8),
        audio=audio,
        pose=torch.randn(b, n, 6),
        eyes=torch.rand(b, n, 2),
        landmarks=face(b, n),
        valid=torch.ones(b, n, dtype=torch.bool),
        source_pose=torch.randn(b, 6),
        source_eyes=torch.rand(b, 2),
        source_landmarks=face(b),
        frames=torch.arange(n).expand(b, n) + 3,
        source_frame=torch.zeros(b, dtype=torch.int64),
        ids=tuple(map(str, range(b))),
    )


def stage(lfg=None, net=None, **options):
    torch.manual_seed(1)
    context = StageContext(size=SIZE, audio_dim=AUDIO, needs={"lfg": lfg or Planted()})
    return A2VStage(context, net=SMALL | (net or {}), **options)


def conditions(net, n=12, b=1, **changes):
    torch.manual_seed(2)
    source = SourceFeatures(
        torch.rand(b, 3, SIZE, SIZE), (torch.rand(b, FEATURES, LATENT, LATENT),)
    )
    given = {
        "landmarks": face(b),
        "audio": torch.randn(b, n, AUDIO),
        "pose": torch.randn(b, n, 6),
        "eyes": torch.randn(b, n, 2),
    }
    return net.conditions(source, **(given | changes))


def small_net(**options):
    torch.manual_seed(1)
    return A2VNet(AUDIO, FEATURES, LATENT, A2VNetConfig(**(SMALL | options))).eval()


def test_paper_scale_has_the_published_size():
    with torch.device("meta"):
        net = A2VNet(1024, 256, 32, A2VNetConfig())
    size = sum(p.numel() for p in net.parameters())
    assert size == pytest.approx(49.9e6, rel=0.02)
    assert net.unet.stem.in_channels + net.unet.stem_static.in_channels == 275


def test_the_face_mask_encoder_is_saved_and_trained():
    trained = stage()
    names = [n for n in trained.net.state_dict() if n.startswith("mask_encoder")]
    assert names
    trained.loss(batch())["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in trained.net.mask_encoder.parameters())


def test_the_frozen_generator_is_neither_trained_nor_saved():
    lfg = Planted()
    trained = stage(lfg)
    trained.loss(batch())["loss"].backward()
    assert lfg.weight.grad is None
    assert not any("weight" in n and "lfg" in n for n in trained.state_dict())
    assert all(p.data_ptr() != lfg.weight.data_ptr() for p in trained.parameters())


def test_flows_are_found_in_chunks_and_put_back_in_order():
    whole, chunked = Planted(), Planted()
    a, _ = stage(whole).prepare(batch())
    b, _ = stage(chunked, chunk=3).prepare(batch())
    torch.testing.assert_close(a, b)
    assert whole.calls == [8]
    assert chunked.calls == [4, 4]  # a clip is not split
    expected = batch().video[:, :, :, 0, 0].float() / 255
    torch.testing.assert_close(a[:, :2, :, 0, 0], (expected[..., :2] - 0.5).transpose(1, 2))
    torch.testing.assert_close(a[:, 2, :, 0, 0], 2 * expected[..., 2] - 1)


@pytest.mark.parametrize("chunk", [64, 4])
def test_flows_lead_from_each_clips_own_portrait(chunk):
    class Between(Planted):
        def flow(self, source, driving):
            times = len(driving) // len(source)
            before = source.mean((2, 3)).repeat_interleave(times, 0)
            change = (driving.mean((2, 3)) - before)[..., None, None]
            return change[:, :2].expand(-1, -1, LATENT, LATENT), change[:, 2:].expand(
                -1, -1, LATENT, LATENT
            )

    shown = batch(b=3)
    latent, _ = stage(Between(), chunk=chunk).prepare(shown)
    change = shown.video.float().mean((3, 4)) - shown.source.float().mean((2, 3))[:, None]
    torch.testing.assert_close(latent[:, :2, :, 0, 0], change[..., :2].transpose(1, 2) / 255)


def test_conditions_of_a_window_are_those_of_its_frames():
    given = conditions(small_net())
    frames = torch.tensor([[0, 1, 2], [11, 4, 7]])
    chosen = given.at(frames).tokens
    for kind, tokens in given.tokens.items():
        for row, window in zip(chosen[kind], frames.tolist(), strict=True):
            torch.testing.assert_close(row, torch.stack([tokens[0, i] for i in window]))


@torch.no_grad()
def test_the_mask_is_of_the_whole_face():
    net, features, landmarks = small_net(), torch.rand(1, FEATURES, LATENT, LATENT), face(1)
    before, lips, oval = net.static(features, landmarks), landmarks.clone(), landmarks.clone()
    lips[:, list(LIPS)] = face(1)[:, list(LIPS)]
    oval[:, list(FACE)] = face(1)[:, list(FACE)]
    assert torch.equal(net.static(features, lips), before)
    assert not torch.equal(net.static(features, oval), before)


@pytest.mark.parametrize("normalize", ["none", "location", "motion"])
def test_flows_come_back_from_latents(normalize):
    trained = stage(net={"normalize": normalize})
    for seed in range(3):
        trained.prepare(batch(seed=seed))
    flow, occlusion = torch.randn(5, 2, LATENT, LATENT), torch.rand(5, 1, LATENT, LATENT)
    motion = torch.randn(5, trained.net.known)
    back = trained.net.from_latent(trained.net.to_latent(flow, occlusion, motion), motion)
    torch.testing.assert_close(back[0], flow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back[1], occlusion, rtol=1e-4, atol=1e-5)
    assert ("flow" in trained.net.statistics) == (normalize == "location")
    assert ("left" in trained.net.statistics) == (normalize == "motion")


def test_the_eyes_count_where_they_are_given_a_weight():
    torch.manual_seed(0)
    plain, weighted = (stage(w_eyes=w).loss(batch()) for w in (0.0, 7.0))
    assert "eyes" not in plain
    assert weighted["eyes"] > 0
    rest = weighted["loss"] - 7 * weighted["eyes"]
    torch.testing.assert_close(rest, weighted["simple"] + weighted["lip"])


def test_shut_eyes_count_too():
    shut = batch()
    shut.landmarks[:, :, [*LEFT_EYE, *RIGHT_EYE], 1] = 0.4
    assert region_mask(shut.landmarks, "eyes", LATENT).sum() == 0
    assert stage(w_eyes=7.0).loss(shut)["eyes"] > 0


def test_motion_normalises_what_motion_leaves():
    """Flows that follow the pose alone are all but nothing in the latent."""
    torch.manual_seed(3)
    trained = stage(net={"normalize": "motion"})
    pose, eyes = torch.randn(256, 1, 6), torch.randn(256, 1, 2)
    motion = trained.net.motion(pose, eyes, face(256))[:, 0]
    slopes = torch.randn(trained.net.known, 3, LATENT, LATENT)
    latent = torch.einsum("nk,kchw->nchw", motion, slopes) * 0.01
    flow, occlusion = latent[:, :2], ((latent[:, 2:] + 1) / 2).clamp(0, 1)
    trained.net.train()
    for _ in range(3):
        noise = 0.01 * torch.randn_like(flow)
        trained.net.observe_statistics(
            flow + noise, occlusion, motion, audio=torch.randn(256, AUDIO), pose=pose[:, 0],
            eyes=eyes[:, 0],
        )  # fmt: skip
    made = trained.net.to_latent(flow, occlusion, motion)
    assert made[:, :2].std() < 0.5
    other = trained.net.to_latent(flow, occlusion, motion.flip(0))
    assert other[:, :2].std() > 1


def test_what_motion_knows_is_quadratic_and_nothing_of_the_portrait():
    net = stage(net={"normalize": "motion"}).net
    pose, eyes = torch.randn(1, 5, 6), torch.randn(1, 5, 2)
    place = face(1)
    once, twice = (net.motion(k * pose, k * eyes, place) for k in (1, 2))
    linear = torch.isclose(twice, 2 * once, rtol=1e-4).all((0, 1))
    assert not net.motion(0 * pose, 0 * eyes, face(1)).any()
    assert int((~linear).sum()) == 21
    elsewhere = net.motion(pose, eyes, face(1))
    assert int((elsewhere != once).any((0, 1)).sum()) == 24
    assert net.known == once.shape[-1] == 2 + 6 + 21 + 24
    left = stage(net={"normalize": "motion", "use_pose": False}).net
    assert left.known == left.motion(pose, eyes, face(1)).shape[-1] == 2


def test_where_no_motion_is_followed_motion_is_location():
    net = stage(net={"normalize": "motion", "use_pose": False, "use_eyes": False}).net
    assert net.known == 0
    assert "flow" in net.statistics
    assert "left" not in net.statistics


def test_conditions_are_differences_to_the_portrait():
    trained = stage()
    one, other = batch(), batch()
    other.pose, other.source_pose = other.pose + 9, other.source_pose + 9
    other.eyes, other.source_eyes = other.eyes - 3, other.source_eyes - 3
    a, b = trained.prepare(one)[1].tokens, trained.prepare(other)[1].tokens
    for kind in ("pose", "eyes"):
        torch.testing.assert_close(a[kind], b[kind], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "w_lip", "w_clean"),
    [({}, 1.0, 0), ({"loss": "code"}, 0.15, 0.15), ({"w_lip": 5.0}, 5.0, 0)],
)
def test_loss_is_the_sum_of_its_terms(options, w_lip, w_clean):
    torch.manual_seed(0)
    losses = stage(**options).loss(batch())
    expected = losses["simple"] + w_lip * losses["lip"] + w_clean * losses.get("clean", 0)
    torch.testing.assert_close(losses["loss"], expected)
    if not w_clean:
        assert 0 < losses["lip"] < losses["simple"]


def test_errors_are_taken_everywhere_on_each_frames_lips_and_of_the_clean_value():
    trained, shown = stage(loss="code", net={"process": {"prediction": "x0"}}), batch()
    trained.net._ordered = lambda noisy, *rest: torch.zeros_like(noisy)
    latent, _ = trained.prepare(shown)
    losses = trained.loss(shown)
    torch.testing.assert_close(losses["simple"], latent.square().mean())
    torch.testing.assert_close(losses["clean"], latent.square().mean())
    paper = stage(net={"process": {"prediction": "x0"}})
    paper.net._ordered = trained.net._ordered
    lips = region_mask(shown.landmarks, "lips", LATENT).transpose(1, 2)
    torch.testing.assert_close(paper.loss(shown)["lip"], (latent.square() * lips).mean())


def weight_of_a_lip_cell(loss):
    """How much an error in the lips' box costs over the same error elsewhere, per clip."""
    trained, shown = stage(loss=loss, net={"process": {"prediction": "x0"}}, dropout=0.0), batch()
    shown.landmarks = torch.full_like(shown.landmarks, 0.5)
    lips = torch.linspace(0, 2 * torch.pi, len(LIPS) + 1)[:-1]
    shown.landmarks[..., list(LIPS), 0] = 0.5 + 0.12 * lips.sin()
    shown.landmarks[..., list(LIPS), 1] = 0.7 + 0.04 * lips.cos()
    latent, _ = trained.prepare(shown)

    def cost(row, column):
        made = latent.clone()
        made[..., row, column] += 1
        trained.net._ordered = lambda *_: made
        losses = trained.loss(shown)
        return float(losses["loss"] - trained.w_clean * losses.get("clean", 0))

    return cost(5, 3) / cost(0, 0)


def test_released_lips_are_divided_by_their_box_and_the_paper_s_by_all_cells():
    """The box, .38 to .62 and .66 to .74, reaches into 2 x 1 of 8 x 8 cells: 1 + 0.15 x 3 x 32.

    (1 + 0.15, if it were divided as L_simple is.)
    """
    assert weight_of_a_lip_cell("code") == pytest.approx(1 + 0.15 * 3 * 32, rel=0.01)
    assert weight_of_a_lip_cell("paper") == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("loss", ["paper", "code"])
def test_frames_without_a_face_do_not_count(loss):
    """However wrong the prediction on one of them is, and as if they were not there."""
    trained, shown = stage(loss=loss), batch()

    def losses(unseen=None, wrong=0.0):
        shown.valid = torch.ones(2, 4, dtype=torch.bool)
        made = torch.zeros(2, 3, 4, LATENT, LATENT)
        if unseen is not None:
            shown.valid[0, unseen] = False
        made[0, :, 1] = wrong
        trained.net._ordered = lambda noisy, *rest: made
        torch.manual_seed(5)
        return trained.loss(shown)

    for name, value in losses(unseen=1).items():
        torch.testing.assert_close(losses(unseen=1, wrong=100.0)[name], value)
        assert losses(wrong=100.0)[name] > value + 1
    # Without each frame of a clip in turn, that clip's mean is over the other three, and weighs
    # as much as before: on the whole nothing changes.
    whole = losses()["simple"]
    changes = torch.stack([losses(unseen=i)["simple"] - whole for i in range(4)])
    assert changes.abs().min() > 1e-4
    assert changes.sum().abs() < 1e-5


def test_observed_frames_are_not_learned():
    class Observing(A2VStage):
        def draw_levels(self, frames):
            t = super().draw_levels(frames).clone()
            t[:, :3] = 0
            return t

    context = StageContext(size=SIZE, audio_dim=AUDIO, needs={"lfg": Planted()})
    trained = Observing(context, net=SMALL)
    trained.net._ordered = lambda noisy, *rest: torch.cat(
        [1e6 * torch.ones_like(noisy[:, :, :3]), torch.zeros_like(noisy[:, :, 3:])], dim=2
    )
    assert trained.loss(batch())["loss"] < 100


def test_levels_are_per_clip_or_per_frame_and_never_clean():
    frames = torch.arange(50).expand(40, 50)
    per_clip, per_frame = stage().draw_levels(frames), stage(levels="frame").draw_levels(frames)
    assert (per_clip == per_clip[:, :1]).all()
    assert not (per_frame == per_frame[:, :1]).all()
    for t in (per_clip, per_frame):
        assert t.min() >= 1
        assert t.max() <= 1000


def test_conditions_are_dropped_per_clip():
    trained = stage(dropout=1.0)
    keeps = []
    trained.net._ordered = lambda noisy, t, p, k, s, keep: keeps.append(keep) or noisy
    trained.loss(batch())
    trained.dropout = 0.0
    trained.loss(batch())
    trained.dropout = 0.25
    torch.manual_seed(0)
    trained.loss(batch(b=32))
    assert not keeps[0].any()
    assert keeps[1].all()
    assert (keeps[2] == keeps[2][:, :1]).all()
    assert 16 < keeps[2][:, 0].sum() < 32


@torch.no_grad()
def test_frames_may_come_in_any_order():
    """Gap frames stand after their two keys, yet lie between them."""
    net = small_net(window=4)
    frames = torch.tensor([[2, 8, 3, 4, 5, 6, 7], [0, 6, 1, 2, 3, 4, 5]])
    order = frames.argsort(1)
    given = conditions(net)
    noisy, t = torch.randn(2, 3, 7, LATENT, LATENT), torch.randint(1, 1000, (2, 7))
    keep = torch.ones(2, 7, dtype=torch.bool)
    mixed = net(noisy, t, frames, given.at(frames), keep)
    ordered = net(
        torch.stack([x[:, o] for x, o in zip(noisy, order, strict=True)]),
        t.gather(1, order),
        frames.gather(1, order),
        given.at(frames.gather(1, order)),
        keep,
    )
    back = order.argsort(1)
    expected = torch.stack([x[:, o] for x, o in zip(ordered, back, strict=True)])
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_where_a_clip_starts_does_not_matter_but_gaps_do():
    net = small_net()
    for level in net.modules():
        if isinstance(level, nn.Embedding):
            nn.init.normal_(level.weight)
    noisy, t = torch.randn(1, 3, 5, LATENT, LATENT), torch.full((1, 5), 300)
    given, keep = conditions(net, 5), torch.ones(1, 5, dtype=torch.bool)
    at = torch.arange(5)[None]
    first = net(noisy, t, at, given, keep)
    torch.testing.assert_close(net(noisy, t, at + 70, given, keep), first)
    assert (net(noisy, t, at * 4, given, keep) - first).abs().max() > 1e-4


@torch.no_grad()
def test_the_portrait_has_no_sound():
    net = small_net()
    denoiser = FlowDenoiser(net)
    frames = torch.tensor([[SOURCE, 0, 1]])
    given = conditions(net)
    noisy, t = torch.randn(1, 3, 3, LATENT, LATENT), torch.tensor([[0, 500, 500]])
    keep = torch.tensor([[False, True, True]])
    expected = net(noisy, t, torch.tensor([[5, 6, 7]]), given.at(frames), keep)
    made = denoiser.denoise(noisy, t, frames, SimpleNamespace(flow=given), None)
    torch.testing.assert_close(made, expected)


@torch.no_grad()
def test_windows_of_one_portrait_are_a_batch():
    net = small_net()
    denoiser = FlowDenoiser(net)
    given = SimpleNamespace(flow=conditions(net))
    frames = torch.tensor([[0, 1, 2], [6, 7, 8]])
    noisy, t = torch.randn(2, 3, 3, LATENT, LATENT), torch.randint(1, 1000, (2, 3))
    both = denoiser.denoise(noisy, t, frames, given, None)
    for i in range(2):
        one = denoiser.denoise(noisy[i : i + 1], t[i : i + 1], frames[i : i + 1], given, None)
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-4, atol=1e-5)
    assert denoiser.latent_shape(given) == (3, LATENT, LATENT)


@torch.no_grad()
@pytest.mark.parametrize("at_once", [0, 64])
def test_guidance_extrapolates_from_the_prediction_without_conditions(at_once, monkeypatch):
    monkeypatch.setattr("thbench.dawn.a2v_net.AT_ONCE", at_once)
    net = small_net()
    frames = torch.tensor([[0, 1, 2, 3], [5, 6, 4, 7]])
    given = SimpleNamespace(flow=conditions(net))
    args = (torch.randn(2, 3, 4, LATENT, LATENT), torch.full((2, 4), 500), frames, given, None)
    with_, without = FlowDenoiser(net).denoise(*args), FlowDenoiser(net, 0.0).denoise(*args)
    assert (with_ - without).abs().max() > 1e-4
    assert (FlowDenoiser(net).branches, FlowDenoiser(net, 3.0).branches) == (1, 2)
    torch.testing.assert_close(
        FlowDenoiser(net, 3.0).denoise(*args), without + 3 * (with_ - without), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pose", "eyes"])
def test_a_condition_can_be_left_out(kind):
    def moved(net):
        at = torch.arange(12)[None]
        args = (torch.randn(1, 3, 12, LATENT, LATENT), torch.full((1, 12), 500), at)
        keep = torch.ones(1, 12, dtype=torch.bool)
        width = {"pose": 6, "eyes": 2}[kind]
        other = conditions(net, **{kind: torch.full((1, 12, width), 3.0)})
        return (net(*args, conditions(net), keep) - net(*args, other, keep)).abs().max()

    assert moved(small_net()) > 1e-4
    assert moved(small_net(**{f"use_{kind}": False})) == 0


@torch.no_grad()
def test_cells_of_the_latent_move_to_channels_and_back():
    net = small_net(patch=2)
    noisy = torch.randn(2, 3, 4, LATENT, LATENT)
    seen = {}
    net.unet.forward = lambda cells, *rest: seen.update(shape=cells.shape) or cells
    frames = torch.arange(4).expand(2, 4)
    given = conditions(net, 4, b=2)
    out = net(noisy, torch.ones(2, 4).long(), frames, given, torch.ones(2, 4).bool())
    assert seen["shape"] == (2, 12, 4, LATENT // 2, LATENT // 2)
    assert torch.equal(out, noisy)
    assert given.static.shape == (2, 16, LATENT // 2, LATENT // 2)


def test_it_learns_flows_that_follow_the_sound():
    torch.manual_seed(0)
    options = {"normalize": "location", "shortcut": True, "process": {"prediction": "x0"}}
    trained = stage(net=options, dropout=0.0)
    trained.train()
    optimizer = torch.optim.AdamW(trained.net.parameters(), 3e-3)
    for step in range(40):
        optimizer.zero_grad()
        trained.loss(batch(4, 4, seed=step))["loss"].backward()
        optimizer.step()
    trained.eval()
    fresh = batch(2, 8, seed=999)
    truth, given = trained.prepare(fresh)
    torch.manual_seed(0)
    one = {k: v[:1] for k, v in given.tokens.items()}
    given.tokens, given.static = one, given.static[:1]
    made = sample(trained.net, given, fresh.frames[:1], SamplerConfig(steps=8))
    pair = torch.stack([made[0].flatten(), truth[0].flatten()])
    assert torch.corrcoef(pair)[0, 1] > 0.6


def test_it_trains_in_mixed_precision_with_flows_in_full():
    lfg = Planted()
    real, kinds = lfg.flow, []
    lfg.flow = lambda *pair: kinds.append(torch.is_autocast_enabled("cpu")) or real(*pair)
    trained = stage(lfg, net={"normalize": "location", "patch": 2})
    with torch.autocast("cpu", torch.bfloat16):
        loss = trained.loss(batch())["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in trained.net.parameters() if p.grad is not None)
    assert kinds == [False]


def test_samples_show_the_clip_beside_what_is_made():
    videos = stage().eval().samples(batch())
    assert videos["generated"].shape == (4, 3, SIZE, 2 * SIZE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l1"}, "loss must be"),
        ({"levels": "window"}, "levels must be"),
        ({"net": {"shortcut": True}}, "shortcut needs"),
        ({"net": {"normalize": "global"}}, "normalize must be"),
        ({"net": {"patch": 8}}, "does not divide"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        stage(**options)


def test_it_needs_a_latent_flow_generator():
    with pytest.raises(UserError, match="needs"):
        A2VStage(StageContext(size=SIZE, audio_dim=AUDIO))
