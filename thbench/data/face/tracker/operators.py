"""What the operators of the face tracker's networks compute, in PyTorch.

Tensors have the layout of TensorFlow Lite, channels last. A builder takes operators that do the
same, each on values and weights of its own, and returns one function for them all, whose inputs and
output lie side by side in the last dimension. Inputs that are constants are left out of its call.

The last three are MediaPipe's own, written from their definitions: a matrix that cuts a region out
of a feature map by the landmarks around it, that cut, and the way back for points found in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thbench.data.face.tracker import kernels
from thbench.data.face.tracker.tflite import Graph, Operator

SAME = 0  # as TensorFlow pads; the other is none
PLAIN, RELU = 0, 1

SIDE_BY_SIDE = ("DEPTHWISE_CONV_2D", "PRELU", "ADD", "ADD, PRELU", "MAX_POOL_2D", "PAD")

Run = Callable[..., Tensor]


class Group:
    """Operators that run as one.

    Attributes:
        first: one of them, for what they have in common.
        size: how many there are.
    """

    def __init__(self, members: Sequence[Operator], graph: Graph, device: torch.device) -> None:
        self.first, self.size = members[0], len(members)
        self._members, self._graph, self._device = members, graph, device

    def constants(self, position: int) -> list[Tensor]:
        """Each one's constant at a position of the inputs."""
        return [self.place(self._graph.constants[m.inputs[position]]) for m in self._members]

    def place(self, values: np.ndarray | list[Any]) -> Tensor:
        return torch.tensor(np.asarray(values), device=self._device)

    def options(self, name: str) -> list[Any]:
        return [member.options[name] for member in self._members]

    def shape(self, position: int) -> tuple[int, ...]:
        """The shape of one's input, for a batch of one."""
        return self._graph.shapes[self.first.inputs[position]]

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self._graph.shapes[self.first.outputs[0]]


def _convolution(group: Group) -> Run:
    options, weights = group.first.options, group.constants(1)
    bias = torch.cat(group.constants(2))
    height, width = weights[0].shape[1:3]
    stride = options["stride_y"], options["stride_x"]
    activation = _activation(options)
    if (height, width) == stride == (1, 1):
        pointwise = _pointwise(torch.stack([w[:, 0, 0] for w in weights]), bias)
        return lambda x: activation(pointwise(x))
    _alone(group)
    weight = weights[0]
    if (height, width) == group.shape(0)[1:3] and options["padding"] != SAME:
        flat = weight.flatten(1)
        return lambda x: activation(F.linear(x.flatten(1), flat, bias)[:, None, None])
    slide = _sliding(group, weight.permute(0, 3, 1, 2), bias, 1)
    return lambda x: activation(slide(x))


def _depthwise(group: Group) -> Run:
    weight = torch.cat(group.constants(1), -1)
    if weight.shape[-1] != group.size * group.shape(0)[-1]:
        raise ValueError("a depthwise convolution with several filters per channel")
    bias, activation = torch.cat(group.constants(2)), _activation(group.first.options)
    slide = _sliding(group, weight.permute(3, 0, 1, 2), bias, weight.shape[-1])
    stride = group.first.options["stride_y"]
    if (
        weight.device.type != "cpu"
        or weight.shape[1:3] != (3, 3)
        or stride != group.first.options["stride_x"]
    ):
        return lambda x: activation(slide(x))
    (top, _), (left, _) = _borders(group, weight)
    height, width = group.output_shape[1:3]
    loops = kernels.depthwise(weight[0], bias, stride, (top, left), (height, width))
    few = kernels.PIXELS // (height * width)
    return lambda x: activation(loops(x) if len(x) <= few else slide(x))


def _prelu(group: Group) -> Run:
    slopes = torch.cat([slope.flatten() for slope in group.constants(1)])
    return lambda x: F.prelu(x.permute(0, 3, 1, 2), slopes).permute(0, 2, 3, 1)


def _add(group: Group) -> Run:
    activation = _activation(group.first.options)
    return lambda a, b: activation(a + b)


def _add_prelu(group: Group) -> Run:
    slopes = torch.cat([slope.flatten() for slope in group.constants(2)])
    if slopes.device.type != "cpu":
        return lambda a, b: F.prelu((a + b).permute(0, 3, 1, 2), slopes).permute(0, 2, 3, 1)
    return kernels.add_prelu(slopes)


def _multiply(group: Group) -> Run:
    (factor,), activation = group.constants(1), _activation(group.first.options)
    return lambda x: activation(x * factor)


def _max_pool(group: Group) -> Run:
    options = group.first.options
    size = options["height"], options["width"]
    if size != (2, 2) or size != (options["stride_y"], options["stride_x"]):
        raise ValueError("a pooling over other than 2 by 2")
    if any(n % 2 for n in group.shape(0)[1:3]):
        raise ValueError("a pooling of an odd size")
    activation = _activation(options)

    def run(x: Tensor) -> Tensor:
        rows = torch.maximum(x[:, ::2], x[:, 1::2])
        return activation(torch.maximum(rows[:, :, ::2], rows[:, :, 1::2]))

    return run


def _pad(group: Group) -> Run:
    (borders,) = {tuple(borders.flatten().tolist()) for borders in group.constants(1)}
    reverse = [n for i in range(len(borders) - 2, -1, -2) for n in borders[i : i + 2]]
    if group.size == 1:
        return lambda x: F.pad(x, reverse)
    reverse[2:2] = (0, 0)  # each one's channels get zeros of their own
    return lambda x: F.pad(x.unflatten(-1, (group.size, -1)), reverse).flatten(-2)


def _reshape(group: Group) -> Run:
    shape = group.output_shape[1:]
    return lambda x: x.reshape(len(x), *shape)


def _strided_slice(group: Group) -> Run:
    if group.output_shape != group.shape(0):
        raise ValueError("a slice that leaves something out")
    return lambda x: x


def _concatenate(group: Group) -> Run:
    axis = group.first.options["axis"]
    return lambda *parts: torch.cat(parts, axis)


def _depth_to_space(group: Group) -> Run:
    block = group.first.options["block"]

    def run(x: Tensor) -> Tensor:
        n, height, width, _ = x.shape
        x = x.reshape(n, height, width, block, block, -1).transpose(2, 3)
        return x.reshape(n, height * block, width * block, -1)

    return run


def _resize(group: Group) -> Run:
    options, size = group.first.options, group.output_shape[1:3]
    if options["align_corners"] or not options["half_pixel_centers"]:
        raise ValueError("a resize that does not look at the middles of pixels")
    return lambda x: F.interpolate(x.permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)


def _region_matrix(group: Group) -> Run:
    """From points to matrices (4, 4) that take places of a region's cut to places in the map.

    The region is a box around some points, level with the line between two of them and larger than
    they need by a factor.
    """
    options = group.first.options
    if options["target_rotation_radians"]:
        raise ValueError("a region that is not level")
    subsets = group.options("subset_idxs")
    longest = max(len(subset) for subset in subsets)
    ends = zip(*(group.options(f"{side}_rotation_idx") for side in ("left", "right")), strict=True)
    # the line's ends, then the points within, some of them twice
    wanted = group.place([[*e, *(s * 2)[:longest]] for e, s in zip(ends, subsets, strict=True)])
    size = group.place([options["output_width"], options["output_height"]]).float()
    scale = group.place([options["scale_x"], options["scale_y"]]).float() / size
    quarter = group.place([[0, 1], [-1, 0]]).float()
    empty = torch.eye(4, device=wanted.device).repeat(1, group.size, 1, 1)

    def run(points: Tensor) -> Tensor:
        xy = points[:, wanted, :2]
        along = F.normalize(xy[:, :, 1] - xy[:, :, 0], dim=-1)
        turn = torch.stack([along, along @ quarter], -1)  # (n, regions, 2, 2), columns: the axes
        low, high = torch.aminmax(xy[:, :, 2:] @ turn, dim=2)
        linear = turn * ((high - low) * scale)[:, :, None]
        middle = turn @ ((low + high) / 2)[..., None] - linear @ (size / 2)[:, None]
        matrices = empty.repeat(len(xy), 1, 1, 1)
        matrices[..., :2, :2], matrices[..., :2, 3:] = linear, middle
        return matrices.transpose(1, 2).flatten(2)

    return run


def _cut_region(group: Group) -> Run:
    """A feature map's values at a grid of places that a matrix moves, zero beyond its edges."""
    options = group.first.options
    height, width = options["output_height"], options["output_width"]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    places = group.place(torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1).numpy())
    last = group.place([n - 1 for n in group.shape(0)[2:0:-1]]).float()
    columns = group.place([0, 1, 3])

    def run(features: Tensor, matrices: Tensor) -> Tensor:
        moves = matrices.unflatten(-1, (group.size, 4))[:, :2].index_select(-1, columns)
        at = places @ moves.permute(0, 2, 3, 1)  # (n, regions, places, 2), half a pixel on
        grid = (at - 0.5) * (2 / last) - 1
        found = F.grid_sample(
            features.permute(0, 3, 1, 2), grid.reshape(len(at), -1, width, 2), align_corners=True
        )
        inside = (grid.abs() <= 1).all(-1)
        found = found.flatten(2) * inside.flatten(1)[:, None]
        found = found.unflatten(2, (group.size, -1)).permute(0, 3, 2, 1)
        return found.reshape(len(at), height, width, -1)

    return run


def _move_points(group: Group) -> Run:
    def run(points: Tensor, matrix: Tensor) -> Tensor:
        return points @ matrix[:, :2, :2].mT + matrix[:, None, :2, 3]

    return run


BUILDERS: dict[str, Callable[[Group], Run]] = {
    "ADD": _add,
    "ADD, PRELU": _add_prelu,
    "CONCATENATION": _concatenate,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEPTH_TO_SPACE": _depth_to_space,
    "MAX_POOL_2D": _max_pool,
    "MUL": _multiply,
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": lambda group: F.relu,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "STRIDED_SLICE": _strided_slice,
    "Landmarks2TransformMatrix": _region_matrix,
    "TransformLandmarks": _move_points,
    "TransformTensorBilinear": _cut_region,
}


def likeness(operator: Operator, graph: Graph) -> tuple[object, ...]:
    """Operators of one depth run as one where this is equal; all differ that have to run alone."""
    shapes = tuple(graph.shapes[number] for number in operator.inputs)
    options = {k: v for k, v in operator.options.items() if not isinstance(v, list)}
    match operator.name:
        case "CONV_2D":
            grouped = shapes[1][1:3] == (1, 1)
        case "Landmarks2TransformMatrix" | "TransformTensorBilinear":
            shapes, grouped = (operator.inputs[:1],), True  # of one set of points, one feature map
            options = {k: v for k, v in options.items() if not k.endswith("rotation_idx")}
        case name:
            grouped = name in SIDE_BY_SIDE
    return operator.name, shapes, *sorted(options.items()), *(() if grouped else operator.outputs)


def shares_input(operator: Operator) -> bool:
    """Whether the first input is one for all that run as one."""
    return operator.name in ("Landmarks2TransformMatrix", "TransformTensorBilinear")


def _alone(group: Group) -> None:
    if group.size > 1:
        raise ValueError(f"{group.first.name} does not run side by side")


def _activation(options: dict[str, object]) -> Callable[[Tensor], Tensor]:
    if (code := options.get("activation", PLAIN)) not in (PLAIN, RELU):
        raise ValueError(f"activation {code} of TensorFlow Lite is not known here")
    return F.relu if code == RELU else lambda x: x


def _pointwise(weights: Tensor, bias: Tensor) -> Run:
    """Convolutions of one pixel; weights (k, out, in) of k groups of channels."""
    groups, channels, _ = weights.shape
    if groups == 1:
        return lambda x: F.linear(x, weights[0], bias)
    across, bias = weights.mT.contiguous(), bias.view(groups, 1, channels)

    def run(x: Tensor) -> Tensor:
        flat = x.reshape(-1, groups, x.shape[-1] // groups).transpose(0, 1)
        found = torch.baddbmm(bias, flat, across).transpose(0, 1)
        return found.reshape(*x.shape[:-1], groups * channels)

    return run


def _sliding(group: Group, weight: Tensor, bias: Tensor, groups: int) -> Run:
    options = group.first.options
    stride = options["stride_y"], options["stride_x"]
    if any(options[f"dilation_{axis}"] > 1 for axis in "xy"):
        raise ValueError("a dilated convolution")
    (top, bottom), (left, right) = _borders(group, weight.permute(1, 2, 3, 0))
    # TensorFlow pads one more behind than before; zeros in the kernel save a copy of the input
    weight = F.pad(weight, (right - left, 0, bottom - top, 0))
    border = (bottom, right)
    weight = weight.contiguous(memory_format=torch.channels_last)

    def run(x: Tensor) -> Tensor:
        found = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride, border, 1, groups)
        return found.permute(0, 2, 3, 1)

    return run


def _borders(group: Group, weight: Tensor) -> list[tuple[int, int]]:
    """Zeros before and behind, of rows and of columns, for a kernel (1, height, width, C)."""
    options = group.first.options
    if options["padding"] != SAME:
        return [(0, 0), (0, 0)]
    stride = options["stride_y"], options["stride_x"]
    sizes = zip(group.shape(0)[1:3], weight.shape[1:3], stride, strict=True)
    totals = [max((-(-size // s) - 1) * s + kernel - size, 0) for size, kernel, s in sizes]
    return [(total // 2, total - total // 2) for total in totals]
