"""Who is rendered: the geometry and the colours of a procedural person, drawn from a seed.

Lengths are in head units: the head is two units high, its centre at the origin, x to the right of
the image, y up, z towards the camera. Colours are linear mixes of sRGB triples in [0, 1].
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]

SKIN = ("#f6d7c3", "#eec1a2", "#e0ac85", "#cf9870", "#b67c54", "#97623f", "#754a30", "#553524")
HAIR = ("#1b1614", "#2e2019", "#4a3020", "#6b4428", "#8f5f34", "#c59a5b", "#e0c48a", "#93392a",
        "#8d8a88", "#d5d2cd")  # fmt: skip
IRIS = ("#4a2e1c", "#6a4526", "#7d6a35", "#4f7350", "#4d7897", "#7396b5", "#5d6670")
CLOTH = ("#22304a", "#6e2b35", "#2f5a4e", "#d9d4c7", "#3a3a3f", "#b5673c", "#5a4d7c", "#8aa6b8",
         "#c9a227", "#e8e8ea", "#8c4a5f", "#4c6b3a")  # fmt: skip
WALL = ("#b8c4cc", "#8fa3ad", "#d8cbb8", "#c3b1a1", "#5d6f80", "#7e8f7a", "#a78f8a", "#46525c",
        "#cfd6d2", "#9a8fb0", "#d6b7a0", "#6a7f8f")  # fmt: skip
HAIR_STYLES = ("short", "crop", "parted", "fringe", "long", "bob", "bun", "curly", "afro", "bald")
_STYLE_ODDS = (0.15, 0.10, 0.15, 0.11, 0.15, 0.10, 0.07, 0.08, 0.05, 0.04)
RIMS = ("#1c1c1f", "#3d2416", "#7a1f2b", "#8a6b2f", "#274060")
NECKLINES = ("crew", "vee", "shirt", "hood")
BACKDROPS = ("gradient", "blobs", "panels", "window")


@dataclass(frozen=True)
class Identity:
    """One person, their clothes, their room and their light. See the module for units."""

    # Skull and face.
    head_width: float
    jaw_width: float
    chin: float
    cheek: float
    head_size: float
    # Features.
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    eye_tilt: float
    iris_size: float
    brow_y: float
    brow_thickness: float
    brow_arch: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    nose_depth: float
    mouth_y: float
    mouth_width: float
    upper_lip: float
    lower_lip: float
    smile: float
    ear_size: float
    # Colours.
    skin: Colour
    lips: Colour
    hair: Colour
    brow: Colour
    iris: Colour
    cloth: Colour
    trim: Colour
    wall: Colour
    accent: Colour
    # Hair, clothes, room and light.
    style: str
    hair_thickness: float
    hairline: float
    part: float
    texture: float
    beard: float
    moustache: float
    blush: float
    glasses: float
    rim: Colour
    neckline: str
    stripes: float
    shoulder: float
    neck_width: float
    backdrop: str
    backdrop_seed: int
    light_x: float
    light_y: float


def generator(seed: int, *words: int | str) -> np.random.Generator:
    """Random numbers that depend on ``seed`` and ``words`` alone, on every machine."""
    keys = [zlib.crc32(w.encode()) if isinstance(w, str) else w for w in words]
    return np.random.default_rng([seed, *keys])


def draw(seed: int, index: int) -> Identity:
    """The ``index``-th person of ``seed``."""
    rng = generator(seed, "identity", index)
    u = rng.uniform
    tone = u(0, len(SKIN) - 1)
    skin = _jitter(rng, _ramp(SKIN, tone), 0.008)
    dark = tone > 4.2
    hair = _jitter(rng, _hair(rng, dark), 0.008)
    style = str(rng.choice(HAIR_STYLES, p=_STYLE_ODDS))
    bearded = rng.random() < 0.25 and style not in ("long", "bob", "bun")
    wall = _jitter(rng, _pick(rng, WALL), 0.05)
    return Identity(
        head_width=u(0.90, 1.07), jaw_width=u(0.86, 1.10), chin=u(0.7, 1.3), cheek=u(0.2, 1.0),
        head_size=u(0.80, 0.86),
        eye_x=u(0.265, 0.325), eye_y=u(0.03, 0.09), eye_width=u(0.155, 0.185),
        eye_height=u(0.165, 0.215), eye_tilt=u(-0.06, 0.16), iris_size=u(0.082, 0.098),
        brow_y=u(0.25, 0.31), brow_thickness=u(0.024, 0.052), brow_arch=u(0.02, 0.07),
        brow_tilt=u(-0.10, 0.12),
        nose_length=u(0.26, 0.37), nose_width=u(0.80, 1.35), nose_depth=u(0.8, 1.25),
        mouth_y=u(-0.53, -0.47), mouth_width=u(0.235, 0.295), upper_lip=u(0.04, 0.075),
        lower_lip=u(0.055, 0.095), smile=u(0.0, 0.05), ear_size=u(0.85, 1.15),
        skin=skin, lips=_lips(rng, skin), hair=hair, brow=_mix(hair, (0.26, 0.15, 0.08), 0.45),
        iris=_jitter(rng, _pick(rng, IRIS[:3] if dark else IRIS), 0.02),
        cloth=_jitter(rng, _pick(rng, CLOTH), 0.04), trim=_pick(rng, CLOTH),
        wall=wall, accent=_mix(wall, _pick(rng, WALL), u(0.5, 0.9)),
        style=style, hair_thickness=u(0.05, 0.10), hairline=u(0.50, 0.64),
        part=float(rng.choice((-1.0, 1.0))) * u(0.15, 0.4), texture=u(0.5, 1.0),
        beard=u(0.6, 0.95) if bearded else 0.0,
        moustache=u(0.65, 0.95) if bearded else 0.0,
        blush=u(0.05, 0.35), glasses=float(rng.choice((0.0, 1.0, 2.0), p=(0.84, 0.08, 0.08))),
        rim=_pick(rng, RIMS), neckline=str(rng.choice(NECKLINES)),
        stripes=float(rng.choice((0.0, 0.0, 0.0, 8.0, 14.0))), shoulder=u(0.9, 1.12),
        neck_width=u(0.36, 0.44), backdrop=str(rng.choice(BACKDROPS)),
        backdrop_seed=int(rng.integers(2**31)), light_x=u(-0.65, 0.65), light_y=u(0.25, 0.6),
    )  # fmt: skip


def scaled(colour: Colour, factor: float) -> Colour:
    """A darker or lighter colour."""
    r, g, b = (min(1.0, c * factor) for c in colour)
    return (r, g, b)


def _hair(rng: np.random.Generator, dark: bool) -> Colour:
    odds = np.array([5, 4, 2, 0.6, 0.2, 0.1, 0.1, 0.1, 0.6, 0.3] if dark else [2.0] * len(HAIR))
    return _rgb(HAIR[rng.choice(len(HAIR), p=odds / odds.sum())])


def _lips(rng: np.random.Generator, skin: Colour) -> Colour:
    base = _mix(skin, (0.80, 0.24, 0.28), rng.uniform(0.42, 0.7))
    return _mix(base, (0.30, 0.08, 0.10), rng.uniform(0.0, 0.15))


def _rgb(code: str) -> Colour:
    return (int(code[1:3], 16) / 255, int(code[3:5], 16) / 255, int(code[5:7], 16) / 255)


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return (a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t)


def _ramp(codes: tuple[str, ...], position: float) -> Colour:
    low = min(int(position), len(codes) - 2)
    return _mix(_rgb(codes[low]), _rgb(codes[low + 1]), position - low)


def _pick(rng: np.random.Generator, codes: tuple[str, ...]) -> Colour:
    return _rgb(codes[rng.integers(len(codes))])


def _jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    r, g, b = np.clip(np.asarray(colour) + rng.normal(0, amount, 3), 0.02, 0.98)
    return (float(r), float(g), float(b))
