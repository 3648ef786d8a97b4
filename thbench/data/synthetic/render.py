"""Procedural talking heads, rendered in torch without a graphics card or a mesh.

A head is a signed distance field met by parallel rays, so its features have depth: they move with
parallax, the nose stands out, and a landmark detector reads the pose. A chunk of frames is drawn at
once; edges are softened analytically, so there is no supersampling.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from thbench.core.types import to_uint8
from thbench.data.synthetic import face, hair, scene
from thbench.data.synthetic.head import BOUND, Surface, trace
from thbench.data.synthetic.identity import Identity
from thbench.data.synthetic.shapes import Rays, blend, segment

CENTRE_Y = 0.07
"""Where the middle of an unmoved head is on the screen, in [-1, 1] upwards."""

_PIVOT = (0.0, -0.75, -0.15)
_CHUNK_PIXELS = 65_536


@dataclass(frozen=True)
class State:
    """What a face does, frame by frame. All (T,) float32.

    Attributes:
        yaw: radians, positive turns the face to the right of the image.
        pitch: radians, positive turns it up.
        roll: radians, positive turns it clockwise in the image.
        scale: 1 is the identity's own size.
        tx, ty: shift in frame widths and heights, to the right and down.
        mouth: opening, 0 to 1.
        width: of the mouth, -1 rounded to 1 spread.
        closure: of the eyes, 0 open to 1 closed.
        brow: lift, about -1 to 1.
        gaze_x, gaze_y: of the irises, about -1 to 1, right and up.
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    scale: Tensor
    tx: Tensor
    ty: Tensor
    mouth: Tensor
    width: Tensor
    closure: Tensor
    brow: Tensor
    gaze_x: Tensor
    gaze_y: Tensor

    @staticmethod
    def neutral(n: int, **values: Tensor) -> State:
        """``n`` frames at rest, with some of the values given."""
        rest = {f.name: torch.zeros(n) for f in fields(State)} | {"scale": torch.ones(n)}
        return State(**(rest | values))

    def __len__(self) -> int:
        return len(self.yaw)

    def __getitem__(self, key: slice) -> State:
        return State(**{f.name: getattr(self, f.name)[key] for f in fields(self)})


@torch.no_grad()
def render(who: Identity, state: State, size: int) -> Tensor:
    """Frames of one person.

    Args:
        who: the person.
        state: T frames of motion.
        size: width and height in pixels.

    Returns:
        (T, 3, size, size) uint8.
    """
    wall = scene.backdrop(who, size)
    step = max(1, _CHUNK_PIXELS // size**2)
    chunks = [_draw(who, state[a : a + step], wall) for a in range(0, len(state), step)]
    return torch.cat(chunks)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rotation from head to camera, pitch first, then yaw, then roll: (N,) each to (N, 3, 3).

    The order and the signs are those that ``thbench.data.face.pose`` reads.
    """
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, -1).unflatten(-1, (3, 3))

    c, s = yaw.cos(), yaw.sin()
    ry = matrix(c, zero, s, zero, one, zero, -s, zero, c)
    c, s = pitch.cos(), -pitch.sin()
    rx = matrix(one, zero, zero, zero, c, -s, zero, s, c)
    c, s = roll.cos(), -roll.sin()
    rz = matrix(c, -s, zero, s, c, zero, zero, zero, one)
    return rz @ ry @ rx


@dataclass(frozen=True)
class _Stand:
    """Where heads are on the screen: turn (N, 3, 3), scale, x and y of the centre (N,)."""

    turn: Tensor
    scale: Tensor
    x: Tensor
    y: Tensor

    @staticmethod
    def of(who: Identity, state: State) -> _Stand:
        turn = rotation(state.yaw, state.pitch, state.roll)
        scale = who.head_size * state.scale
        pivot = torch.tensor(_PIVOT)
        shift = (pivot - turn @ pivot) * scale[:, None]
        x, y = 2 * state.tx + shift[:, 0], CENTRE_Y - 2 * state.ty + shift[:, 1]
        return _Stand(turn, scale, x, y)

    def window(self, radii: tuple[float, float, float], size: int) -> tuple[slice, slice]:
        """Rows and columns that hold an ellipsoid of these radii in every frame."""
        reach = (self.turn * torch.tensor(radii)).square().sum(-1).sqrt() * self.scale[:, None]

        def span(low: Tensor, high: Tensor) -> slice:
            first = int(((low.min() + 1) / 2 * size).floor()) - 1
            last = int(((high.max() + 1) / 2 * size).ceil()) + 1
            return slice(min(max(first, 0), size - 4), max(min(last, size), 4))

        rows = span(-self.y - reach[:, 1], -self.y + reach[:, 1])
        return rows, span(self.x - reach[:, 0], self.x + reach[:, 0])

    def rays(self, size: int, window: tuple[slice, slice]) -> Rays:
        """Rays through the pixels of a window."""
        x, y = scene.screen(size)
        scale, cx, cy = (v[:, None, None] for v in (self.scale, self.x, self.y))
        u, v = (x[:, window[1]] - cx) / scale, (y[window[0]] - cy) / scale
        entry = self.turn[:, :, :, None, None]
        o = [entry[:, 0, i] * u + entry[:, 1, i] * v for i in range(3)]
        d = [entry[:, 2, i] for i in range(3)]
        return Rays((o[0], o[1], o[2]), (d[0], d[1], d[2]), 2 / size / scale)


def _draw(who: Identity, state: State, wall: Tensor) -> Tensor:
    size = wall.shape[-1]
    image = wall[None].repeat(len(state), 1, 1, 1)
    stand = _Stand.of(who, state)
    wide = stand.window(hair.bound(who), size)
    view, rays = image[:, :, wide[0], wide[1]], stand.rays(size, wide)
    _blend(who, view, hair.hanging(who, rays))
    _body(who, state, image)
    _blend(who, view, hair.behind(who, rays))
    tight = stand.window(BOUND, size)
    near = stand.rays(size, tight)
    drop = face.jaw_drop(state.mouth)[:, None, None]
    head = trace(who, near, drop, (who.light_x, who.light_y))
    _head(who, state, image[:, :, tight[0], tight[1]], head, near)
    depth = torch.full_like(view[:, 0], -9.0)
    inner = tuple(
        slice(t.start - w.start, t.stop - w.start) for t, w in zip(tight, wide, strict=True)
    )
    depth[:, inner[0], inner[1]] = torch.where(head.alpha > 0.5, head.depth, -9.0)
    _blend(who, view, hair.sides(who, rays, depth))
    _blend(who, view, hair.cap(who, rays, depth))
    return to_uint8(image)


def _blend(who: Identity, view: Tensor, layers: list[hair.Layer]) -> None:
    for layer in layers:
        blend(view, who.hair, layer.alpha, layer.shade)


def _body(who: Identity, state: State, image: Tensor) -> None:
    size = image.shape[-1]
    x, y = scene.screen(size)
    tx, ty, scale = (v[:, None, None] for v in (state.tx, state.ty, state.scale))
    grow = who.head_size * (1 + 0.5 * (scale - 1))
    u = (x - 1.2 * tx) / grow
    v = (y - CENTRE_Y + 1.2 * ty) / grow + 1.25
    chin_x = (0.5 * state.yaw.sin())[:, None, None, None]
    chin_y = (0.30 + 0.55 * state.pitch.sin())[:, None, None, None]
    scene.body(who, image, u.expand_as(image[:, 0]), v.expand_as(image[:, 0]),
               torch.cat([chin_x, chin_y], -1))  # fmt: skip


def _head(who: Identity, state: State, image: Tensor, head: Surface, rays: Rays) -> None:
    x, y, z = head.point
    albedo = torch.tensor(who.skin)[None, :, None, None].expand_as(image).clone()
    canvas = face.Canvas(albedo, x, y, segment(z, 0.05, 0.25), rays.pixel)
    mouth, width, closure, lift, gx, gy = (
        v[:, None, None]
        for v in (state.mouth, state.width, state.closure, state.brow, state.gaze_x, state.gaze_y)
    )
    face.skin(who, canvas)
    face.beard(who, canvas, mouth)
    face.nostrils(who, canvas)
    face.mouth(who, canvas, mouth, width)
    face.eyes(who, canvas, closure, (0.035 * gx, 0.02 * gy))
    face.brows(who, canvas, lift)
    face.glasses(who, canvas)
    albedo.mul_(head.shade[:, None])
    image.add_(head.alpha[:, None] * (albedo - image))
