"""How much each network answers to each of its conditions, before it has learned anything.

    python -m tests.conditions

prints, for every network of every strategy at each of its scales, the answer to one standard
deviation of each condition and writes it to ``docs/sensitivity-conditions.md``;
``tests/test_conditions.py`` holds the answers of one network to a factor of each other.

A condition of one clip is replaced by that of another clip, all else staying as it is. The root
mean square of what this changes in the output, over that of the output, is divided by the root of
two, by which two draws differ more than a draw from the mean. Layers that start at zero, so that
nothing behind them is seen, are given the initialisation that they would have had. Looked at is
the network itself, without the estimate (``shortcut``) that its output corrects: that one holds the
portrait by design.

Sound is speech of the synthetic voices as log-mel; other encoders are stood in for by a fixed
random layer over it, with channels of other means and sizes. Poses and eyes are the synthetic
heads'. Portraits are drawings; what encoders make of them, fixed random layers.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.hallo.net import ConditionMask
from thbench import config as configs
from thbench.core.types import EYES_DIM, POSE_DIM
from thbench.data.embedding.encoders import ENCODERS, LogMel
from thbench.data.face.morphable import POSE_COEFFICIENTS
from thbench.data.synthetic.perform import Performance, perform
from thbench.dawn.lfg import SourceFeatures
from thbench.generation import plans
from thbench.generation.plans import SOURCE
from thbench.nn.normalize import RunningStats
from thbench.nn.regions import FACE, LEFT_EYE, LIPS, RIGHT_EYE, region_mask
from thbench.training.runs import build_stage
from thbench.training.stage import Stage

SEED, PEOPLE, LENGTH = 11, 8, 60
MOST = 5.0
"""The largest answer of a network may be so many times the smallest."""
LEVEL = 0.5
"""Noise level at which networks are asked, as a share of all."""

POSE_UNITS = torch.tensor([1, 1, 1, 0.5, 1, 1])
"""Heads are half as large as the frame."""
OWN = 0.03
"""By so much people differ in size and place, in fractions of the frame."""

Given = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """A network that answers to conditions.

    Attributes:
        answer: from conditions by name to the output.
        draw: conditions of so many clips, the draws of different seeds being of different clips.
    """

    answer: Callable[[Given], Tensor]
    draw: Callable[[int], Given]


def responses(network: Network, draws: int = 2) -> dict[str, float]:
    """The answer to one standard deviation of each condition, by its name."""
    found: dict[str, list[float]] = {}
    for k in range(draws):
        given, other = network.draw(2 * k), network.draw(2 * k + 1)
        with torch.no_grad():
            before = network.answer(given)
            for name in given:
                moved = network.answer(given | {name: other[name]}) - before
                found.setdefault(name, []).append(float(rms(moved) / rms(before)) / 2**0.5)
    return {name: sum(values) / len(values) for name, values in found.items()}


def rms(values: Tensor) -> Tensor:
    return values.float().square().mean().sqrt()


def awake(net: nn.Module) -> nn.Module:
    """The network with the usual initialisation of each layer that starts at zero."""
    torch.manual_seed(SEED)
    for module in net.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d) and not weight.any():
            module.reset_parameters()
    return net


# What there is to be given


@functools.cache
def played(person: int) -> Performance:
    return perform(SEED, person, 0, LENGTH)


def places(frames: int) -> Tensor:
    """So many moments of a performance, from end to end."""
    return torch.linspace(LENGTH - 4, 3, frames).long().flip(0)


@functools.cache
def speech(person: int) -> Tensor:
    """Log-mel (LENGTH, 320)."""
    return torch.from_numpy(LogMel()(played(person).speech.waveform, LENGTH))


def sound(people: Sequence[int], frames: int, width: int) -> Tensor:
    """(B, T, width)."""
    heard = torch.stack([speech(p)[places(frames)] for p in people])
    if width == LogMel.dim:
        return heard
    lift = torch.Generator().manual_seed(SEED)
    weight = torch.randn(LogMel.dim, width, generator=lift) / LogMel.dim**0.5
    size = 0.3 * torch.exp(0.5 * torch.randn(width, generator=lift))
    mean = 0.3 * torch.randn(width, generator=lift)
    return torch.tanh(heard @ weight) * size + mean


def head(people: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
    """Poses (B, T, 6) and eyes (B, T, 2)."""
    poses, eyes = [], []
    for person in people:
        motion, who = played(person).motion, torch.Generator().manual_seed(person)
        own = OWN * torch.randn(3, generator=who)
        names = ("yaw", "pitch", "roll", "scale", "tx", "ty")
        curves = torch.stack([torch.as_tensor(getattr(motion, n)) for n in names], -1).float()
        poses.append(curves[:frames] * POSE_UNITS + F.pad(own, (3, 0)))
        eyes.append((0.3 * (1 - torch.from_numpy(motion.closure)))[:frames, None].expand(-1, 2))
    return torch.stack(poses).float(), torch.stack(eyes).float()


def moving(people: Sequence[int], frames: int) -> tuple[Tensor, Tensor]:
    """Differences of poses and eyes to a portrait, which is another moment of the clip."""
    still = LENGTH // 2
    return tuple(x[:, places(frames)] - x[:, still, None] for x in head(people, LENGTH))  # type: ignore[return-value]


def marks(people: Sequence[int]) -> Tensor:
    """Landmarks (B, 478, 3): ovals of face, lips and eyes in their places."""
    found = torch.full((len(people), 478, 3), 0.5)
    pose = head(people, LENGTH)[0][:, -1]
    rings = ((FACE, 0.0, 0.0, 0.45, 0.6), (LIPS, 0.0, 0.3, 0.15, 0.06))
    eyes = ((RIGHT_EYE, -0.2, -0.12, 0.08, 0.03), (LEFT_EYE, 0.2, -0.12, 0.08, 0.03))
    for row, p in zip(found, pose, strict=True):
        for ring, x, y, across, down in (*rings, *eyes):
            turn = torch.linspace(0, 2 * torch.pi, len(ring) + 1)[:-1]
            row[list(ring), 0] = 0.5 + p[4] + p[3] * (x + across * turn.sin())
            row[list(ring), 1] = 0.5 + p[5] + p[3] * (y - down * turn.cos())
    return found


def portraits(people: Sequence[int], size: int) -> Tensor:
    """Drawings (B, 3, size, size) in [0, 1] of a face before a wall."""
    points = marks(people)
    drawn = []
    for person, row in zip(people, points, strict=True):
        chance = torch.Generator().manual_seed(1000 + person)
        wall = F.interpolate(torch.rand(1, 3, 3, 3, generator=chance), size=size, mode="bicubic")
        picture = wall[0].clamp(0, 1)
        for region in ("face", "lips", "eyes"):
            colour = torch.rand(3, 1, 1, generator=chance)
            picture = torch.where(region_mask(row[None], region, size)[0] > 0, colour, picture)
        drawn.append(picture)
    return torch.stack(drawn)


def lifted(pictures: Tensor, channels: int, size: int, *, rectified: bool = False) -> Tensor:
    """Pictures as an encoder might have them: (B, channels, size, size), of unit deviation."""
    lift = torch.Generator().manual_seed(SEED)
    weight = torch.randn(channels, 3, 3, 3, generator=lift)
    seen = F.conv2d(F.adaptive_avg_pool2d(pictures, size) - 0.5, weight, padding=1)
    seen = seen / seen.std((0, 2, 3), keepdim=True)
    return F.relu(seen) if rectified else seen


def flows(people: Sequence[int], frames: int, size: int) -> Tensor:
    """Flows and occlusions (B, 3, T, size, size) of turning heads."""
    pose, _ = moving(people, frames)
    axis = torch.linspace(-1, 1, size)
    near = torch.exp(-(axis[:, None] ** 2 + axis**2) / 0.5)
    yaw, pitch, roll = (pose[..., k, None, None] for k in range(3))
    across = -(0.3 * yaw - roll * axis[:, None]) * near
    down = (0.3 * pitch - roll * axis) * near
    hidden = 1 - 4 * across.abs().clamp(max=0.2)
    return torch.stack([across, down, 2 * hidden - 1], dim=1)


# The networks


def stage_net(strategy: str, name: str, scale: str, words: Sequence[str] = ()) -> Stage:
    """A stage with new weights; the stages that it needs have none."""
    loaded = configs.load(strategy, [f"scale={scale}", *words])
    nets: dict[str, nn.Module] = {}
    width = ENCODERS.load(loaded.data.audio).default_dim

    def build(stage: str) -> Stage:
        for need in loaded.stages[stage].needs:
            if need not in nets:
                with torch.device("meta"):
                    nets[need] = build(need).net
        needs = {need: nets[need] for need in loaded.stages[stage].needs}
        return build_stage(loaded, stage, needs, width)

    return build(name)


def find(stats: nn.Module, values: Tensor) -> None:
    """Let statistics be those of ``values``, after several batches like them."""
    assert isinstance(stats, RunningStats)
    stats.train().update(values.reshape(-1, *stats.mean.shape))


EVERYBODY = tuple(range(PEOPLE))


def pair(seed: int) -> tuple[int, int]:
    """Two people."""
    return (2 * seed) % PEOPLE, (2 * seed + 1) % PEOPLE


def dawn(strategy: str, name: str, scale: str, words: Sequence[str] = (), **plan: Any) -> Network:
    """DAWN's denoiser, on a window of the strategy's plan that observes frames where it has any."""
    stage = stage_net(strategy, name, scale, words)
    net: Any = stage.net
    loaded = configs.load(strategy, [f"scale={scale}"])
    window = _window({**loaded.plan, **plan}, net, loaded.stages[name].model.get("window", "main"))
    places = torch.tensor([[*window.observe, *window.generate]])
    seen, n = len(window.observe), places.shape[1]
    everyone = moving(EVERYBODY, LENGTH)
    latents = flows(EVERYBODY, 6, net.latent_size).transpose(1, 2).flatten(0, 1)
    motion = net.motion(everyone[0][:, :6], everyone[1][:, :6], marks(EVERYBODY))
    net.train().observe_statistics(
        latents[:, :2],
        (latents[:, 2:] + 1) / 2,
        motion.flatten(0, 1),
        audio=sound(EVERYBODY, 40, net.kinds["audio"]).flatten(0, 1),
        pose=everyone[0].flatten(0, 1),
        eyes=everyone[1].flatten(0, 1),
    )
    awake(net.unet)
    net.eval()
    features = net.unet.stem_static.in_channels // net.patch**2 - net.mask_encoder[-1].num_features

    def draw(seed: int) -> Given:
        people = pair(seed)
        pose, eyes = moving(people, n)
        given: Given = {"sound": sound(people, n, net.kinds["audio"]), "pose": pose, "eyes": eyes}
        picture = portraits(people, 4 * net.latent_size)
        given["portrait"] = lifted(picture, features, net.latent_size, rectified=True)
        given["mask"] = marks(people)
        if seen:
            clean = flows(people, seen, net.latent_size).transpose(1, 2).flatten(0, 1)
            still = clean.new_zeros(len(clean), net.known)
            latent = net.to_latent(clean[:, :2], (clean[:, 2:] + 1) / 2, still)
            given["motion frames"] = latent.unflatten(0, (2, seen)).transpose(1, 2)
        return given

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        source = SourceFeatures(given["portrait"], (given["portrait"],))
        made = net.conditions(source, given["mask"], given["sound"], given["pose"], given["eyes"])
        noisy = torch.randn(2, net.shape[0], n, *net.shape[1:])
        t = torch.full((2, n), round(LEVEL * net.process.steps))
        if seen:
            noisy[:, :, :seen], t[:, :seen] = given["motion frames"], 0
        keep = torch.ones(2, n, dtype=torch.bool)
        out = net(noisy, t, places.expand(2, -1), made, keep)
        return out[:, :, seen:]

    return Network(answer, draw)


def _window(plan: dict[str, Any], net: Any, model: str) -> Any:
    """The window of a plan for a clip of 48 frames that observes most, cut to few frames."""
    windows = [w for w in plans.windows(plans.build(**{"n": 48, **plan})) if w.model == model]
    # Of the one-round plan all frames are one window: eight of them show what all do.
    best = max(windows, key=lambda w: (sum(i != SOURCE for i in w.observe), len(w.generate)))
    return best


def pbnet(scale: str, part: str) -> Network:
    """DAWN's pose and blink network: its ``encoder``, or its decoder's ``pose`` or ``eyes``."""
    net: Any = stage_net("dawn", "pbnet", scale).net
    width = net.statistics["audio"].mean.numel()
    still = head(EVERYBODY, LENGTH)
    pose, eyes = moving(EVERYBODY, LENGTH)
    net.train().observe_statistics(
        pose=pose, eyes=eyes, source_pose=still[0], source_eyes=still[1],
        audio=sound(EVERYBODY, LENGTH, width),
    )  # fmt: skip
    net.eval()
    own = {"pose": "portrait's pose", "eyes": "portrait's eyes"}

    def draw(seed: int) -> Given:
        people = pair(seed)
        given: Given = {"sound": sound(people, 24, width)}
        given |= {own[k]: v[:, LENGTH // 2] for k, v in zip(own, head(people, LENGTH), strict=True)}
        if part != "encoder":
            return {k: given[k] for k in ("sound", own[part])}
        return given | dict(zip(("pose", "eyes"), moving(people, 24), strict=True))

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        empty = {own["pose"]: torch.zeros(2, POSE_DIM), own["eyes"]: torch.zeros(2, EYES_DIM)}
        given = empty | given
        source = net.source(given[own["pose"]], given[own["eyes"]])
        heard = net.normalize("audio", given["sound"])
        if part == "encoder":
            seen = (net.normalize(kind, given[kind]) for kind in ("pose", "eyes"))
            return net.encode(*seen, heard, source)[0]
        decoded = net.decode(torch.randn(2, 24, net.latent), heard, source)
        return decoded[list(own).index(part)]

    return Network(answer, draw)


def coefficients(people: Sequence[int], frames: int, n: int) -> Tensor:
    """Expression and pose coefficients (B, T, n), slowly changing."""
    drawn = []
    for person in people:
        chance = torch.Generator().manual_seed(2000 + person)
        knots = torch.randn(1, n, 10, generator=chance)
        curve = F.interpolate(knots, size=LENGTH, mode="linear")[0].T
        drawn.append(curve[places(frames)] * torch.linspace(3, 0.1, n))
    return torch.stack(drawn)


def fd2talk_motion(scale: str, words: Sequence[str] = ()) -> Network:
    """FD2Talk's transformers, on a segment that observes the end of the one before."""
    stage: Any = stage_net("fd2talk", "motion", scale, words)
    net, overlap = stage.net, stage.overlap
    width, n = net.scale_audio.mean.numel(), int(stage.plan["segment"]) + overlap
    find(net.scale_audio, sound(EVERYBODY, LENGTH, width))
    find(net.scale, coefficients(EVERYBODY, LENGTH, net.channels))
    awake(net).eval()

    def draw(seed: int) -> Given:
        people = pair(seed)
        observed = net.to_latent(coefficients(people, overlap, net.channels))
        return {"sound": sound(people, n, width), "motion frames": observed}

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        noisy = torch.randn(2, net.channels, n)
        t = torch.full((2, n), round(LEVEL * net.process.steps))
        noisy[:, :, :overlap], t[:, :overlap] = given["motion frames"], 0
        return net(noisy, t, torch.arange(n).expand(2, -1), given["sound"])[:, :, overlap:]

    return Network(answer, draw)


def fd2talk_frame(scale: str, words: Sequence[str] = ()) -> Network:
    """FD2Talk's U-Net."""
    net: Any = stage_net("fd2talk", "frame", scale, words).net
    channels, n = net.shape[0], net.scale_motion.mean.numel()
    expression = n - POSE_COEFFICIENTS

    def latents(people: Sequence[int]) -> Tensor:
        return lifted(portraits(people, 4 * net.shape[1]), channels, net.shape[1])

    find(net.scale, latents(EVERYBODY))
    find(net.scale_motion, coefficients(EVERYBODY, LENGTH, n))
    net.shortcut = False
    awake(net).eval()

    def draw(seed: int) -> Given:
        people = pair(seed)
        motion = coefficients(people, 1, n)[:, 0]
        given = {"expression": motion[:, :expression], "pose": motion[:, expression:]}
        if net.portrait_motion:
            given["portrait's motion"] = coefficients(people, 2, n)[:, 1]
        return given | {"portrait": net.to_latent(latents(people))}

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        motion = torch.cat([given["expression"], given["pose"]], dim=1)
        tokens = net.motion(motion, given.get("portrait's motion", motion))
        still, t = given["portrait"], torch.full((2,), round(LEVEL * net.process.steps))
        return net(torch.randn(2, *net.shape), t, tokens, net.reference(still), still)

    return Network(answer, draw)


def hallo(
    scale: str, words: Sequence[str] = (), *, segment: int = 4, clips: bool = True
) -> Network:
    """Hallo's denoiser: of the second stage, or with ``clips=False`` of the first."""
    net: Any = stage_net("hallo", "video", scale, words).net
    width, (channels, size, _) = net.statistics["audio"].mean.numel(), net.shape
    find(net.statistics["audio"], sound(EVERYBODY, LENGTH, width))
    face_width = net.face.project.in_features

    def latents(people: Sequence[int]) -> Tensor:
        return lifted(portraits(people, 4 * size), channels, size)

    if net.shortcut:
        everyone = latents(EVERYBODY)
        find(net.statistics["latent"], 0.3 * (everyone - everyone.roll(1, 0)))
        net._correct = lambda made, *rest: made
    awake(net).eval()

    def draw(seed: int) -> Given:
        people, chance = pair(seed), torch.Generator().manual_seed(seed)
        given: Given = {"portrait": latents(people)}
        given["face"] = torch.randn(2, face_width, generator=chance)
        if clips:
            given["sound"] = sound(people, segment, width)
            given["mask"] = marks(people)
        if clips and net.motion:
            still = latents(people)[:, :, None].expand(-1, -1, net.motion, -1, -1)
            given["motion frames"] = still
        return given

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        n = segment if clips else 1
        net.face.embed = lambda *_: given["face"]
        faces = given.get("mask", marks((0, 0)))
        extent = faces[:, None, :, :2].expand(-1, 2, -1, -1)  # of clips that stand still
        portrait = net.portrait(given["portrait"], None, faces, extent)
        t = torch.full((2, n), round(LEVEL * net.process.steps))
        rest: list[Any] = []
        if clips:
            rest.append(net.tokens(given["sound"], torch.arange(n).expand(2, -1)))
        if "motion frames" in given:
            before = net.to_latent(given["motion frames"], portrait.latent)
            rest.append(net.motion_maps(before, portrait))
        keep = ConditionMask.all(2, t.device)
        return net(torch.randn(2, channels, n, size, size), t, portrait, keep, *rest)

    return Network(answer, draw)


def diffused_heads(scale: str, words: Sequence[str] = ()) -> Network:
    """Diffused Heads' U-Net."""
    net: Any = stage_net("diffused_heads", "frame", scale, words).net
    width = net.scale_audio.mean.numel()
    find(net.scale_audio, sound(EVERYBODY, LENGTH, width))
    net.shortcut = False
    awake(net).eval()

    def draw(seed: int) -> Given:
        people = pair(seed)
        pictures = 2 * portraits(people, net.size) - 1
        given = {"sound": sound(people, 1 + 2 * net.audio_context, width), "portrait": pictures}
        if net.motion:
            given["motion frames"] = pictures[:, :, None].expand(-1, -1, net.motion, -1, -1)
        return given

    def answer(given: Given) -> Tensor:
        torch.manual_seed(SEED)
        still = net.portrait_features(given["portrait"])
        if net.motion:
            still = still + net.motion_features(given["motion frames"])
        heard = net.audio_features(given["sound"], torch.tensor([net.audio_context]))[:, 0]
        t = torch.full((2,), round(LEVEL * net.process.steps))
        noisy = torch.randn(2, 3, net.size, net.size)
        return net.process.split(net(noisy, t, given["portrait"], still, heard))[0]

    return Network(answer, draw)


SMALL = "{mults: [1, 2], head_dim: 8}"
LFG = "{region_net: [32, 1024, 4], background_net: [32, 1024, 4], flow_net: [64, 1024, 4]}"
OTHERS = {
    "frame": "{blocks: 1, dim: 64}",
    "image": "{channels: [64, 128], attends: [true, true], layers: 1}",
    "motion": "{depth: 2}",
}

Case = tuple[str, str, Callable[[], Network]]


def cases(scale: str, *, whole: bool = True) -> Iterator[Case]:
    """Strategy, network and how to build it, of the strategies that have a scale.

    Args:
        scale: one of ``config.SCALES``; strategies without it are left out.
        whole: at paper scale the networks as they are, but for pictures of fewer pixels and fewer
            frames; else with fewer levels, blocks or channels.
    """
    return (case for case in _cases(scale, whole) if scale in configs.scales(case[0]))


def _cases(scale: str, whole: bool) -> Iterator[Case]:
    shrink = scale == "paper" and not whole

    def words(stage: str, *given: str) -> list[str]:
        net = OTHERS.get(stage, SMALL)
        return [*given, f"stages.{stage}.model.net={net}"] if shrink else list(given)

    def flow(strategy: str, stage: str, **plan: Any) -> Callable[[], Network]:
        smaller = ("size=64", f"stages.lfg.model.net={LFG}") if shrink else ()
        return lambda: dawn(strategy, stage, scale, words(stage, *smaller), **plan)

    yield "dawn", "denoiser", flow("dawn", "a2v1", n=5)
    yield "ar", "denoiser", flow("ar", "a2v1")
    yield "sar", "denoiser", flow("sar", "a2v1", segment=4, overlap=1)
    yield "rolling", "denoiser", flow("rolling", "a2v1", window=4, context=2)
    if whole:  # it observes nothing, as dawn's
        yield "ttr", "denoiser of keys", flow("ttr", "keys1", n=33)
    yield "ttr", "denoiser of gaps", flow("ttr", "gaps1", **({"stride": 4} if shrink else {}))
    for part in ("encoder", "pose", "eyes"):
        yield "dawn", f"PBNet, {part}", functools.partial(pbnet, scale, part)
    size = ["size=64"] if scale == "paper" else []
    tiles = ["size=32"] if shrink else size
    yield "fd2talk", "motion", lambda: fd2talk_motion(scale, words("motion"))
    yield "fd2talk", "frame", lambda: fd2talk_frame(scale, words("frame", *size))
    side = [] if scale != "paper" else [f"size={64 if shrink else 128}"]
    yield "hallo", "stage 1", lambda: hallo(scale, words("image", *side), clips=False)
    yield "hallo", "stage 2", lambda: hallo(scale, words("image", *side))
    yield "diffused_heads", "frame", lambda: diffused_heads(scale, words("frame", *tiles))


def draws_for(network: str) -> int:
    """Portraits with eyes closed are few, and far from the others."""
    return 4 if "PBNet" in network else 1


def farthest(found: Mapping[str, float]) -> float:
    """The largest answer over the smallest."""
    return max(found.values()) / min(found.values())


PAGE = """# What networks answer to their conditions before they learn

Made by `python -m tests.conditions`. The change of a new network's output when one condition moves
by one standard deviation of its data, as a share of the output (root mean squares). The last column
is the largest over the smallest; `tests/test_conditions.py` (smaller networks, `make test`) and
`tests/paper/test_conditions.py` (these) hold it below {most:.0f}.

How it is measured, and with what data, stands in `tests/conditions.py`: layers that start at zero
are given the usual initialisation, or nothing behind them would be seen. Networks at paper scale
have all their channels and levels, and see few frames of few pixels (latents of 16 x 16 in FD2Talk
and Hallo, pictures of 64 x 64 in Diffused Heads).

"""


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="strategies and networks that have this word")
    parser.add_argument("--page", default="docs/sensitivity-conditions.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ("sound", "pose", "eyes", "expression", "portrait", "face", "mask", "motion frames")
    own = ("portrait's pose", "portrait's eyes", "portrait's motion")
    head = ["strategy", "network", "scale", *names, "the portrait's own", "factor"]
    rows = [head, ["---", "---", "---", *["---:"] * (len(head) - 3)]]
    for scale in configs.SCALES:
        for strategy, network, build in cases(scale):
            if options.only not in f"{strategy} {network} {scale}":
                continue
            found = responses(build(), draws_for(network))
            cells = [f"{found[n]:.2f}" if n in found else "" for n in names]
            theirs = " ".join(f"{n.split()[-1]} {found[n]:.2f}" for n in own if n in found)
            rows.append([strategy, network, scale, *cells, theirs, f"{farthest(found):.1f}"])
            print(strategy, network, scale, found, f"{farthest(found):.1f}", flush=True)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    Path(options.page).write_text(PAGE.format(most=MOST) + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
