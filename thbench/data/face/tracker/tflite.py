"""Reads networks from TensorFlow Lite files, without TensorFlow Lite.

Such a file is a FlatBuffer: tables whose fields are found through an offset each. Field numbers,
operator codes and enumerations are those of TensorFlow Lite's public schema (version 3); options of
operators of one's own are a FlexBuffer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OPERATORS = {
    0: "ADD", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 5: "DEPTH_TO_SPACE",
    6: "DEQUANTIZE", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 34: "PAD", 45: "STRIDED_SLICE", 54: "PRELU", 124: "DENSIFY",
}  # fmt: skip
DTYPES: dict[int, str] = {0: "<f4", 1: "<f2", 2: "<i4", 3: "<u1"}
CUSTOM = 32

# name -> (field, struct format), for the options that are used; 0 stands for one left out
OPTIONS: dict[str, dict[str, tuple[int, str]]] = {
    "ADD": {"activation": (0, "b")},
    "CONCATENATION": {"axis": (0, "i"), "activation": (1, "b")},
    "CONV_2D": {
        "padding": (0, "b"), "stride_x": (1, "i"), "stride_y": (2, "i"), "activation": (3, "b"),
        "dilation_x": (4, "i"), "dilation_y": (5, "i"),
    },
    "DEPTHWISE_CONV_2D": {
        "padding": (0, "b"), "stride_x": (1, "i"), "stride_y": (2, "i"), "activation": (4, "b"),
        "dilation_x": (5, "i"), "dilation_y": (6, "i"),
    },
    "DEPTH_TO_SPACE": {"block": (0, "i")},
    "MAX_POOL_2D": {
        "padding": (0, "b"), "stride_x": (1, "i"), "stride_y": (2, "i"), "width": (3, "i"),
        "height": (4, "i"), "activation": (5, "b"),
    },
    "MUL": {"activation": (0, "b")},
    "RESIZE_BILINEAR": {"align_corners": (2, "?"), "half_pixel_centers": (3, "?")},
}  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """A step of a network: tensors by number, -1 for one left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Graph:
    """A network: shapes of all tensors, values of those that are constant, steps in order."""

    shapes: tuple[tuple[int, ...], ...]
    constants: dict[int, np.ndarray]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: dict[str, int]


def read(path: str | Path) -> Graph:
    """The network of a file with one graph; its constants in 32 bits, dense.

    Raises:
        ValueError: the file is none, or holds an operator that is not known here.
    """
    data = Path(path).read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError(f"{path} is no TensorFlow Lite file")
    model = _Table(data, *struct.unpack_from("<I", data))
    codes = [_operator_name(code) for code in model.tables(1)]
    (graph,) = model.tables(2)
    buffers = [buffer.vector(0, "<u1") for buffer in model.tables(4)]
    tensors = list(graph.tables(0))
    constants = {
        i: _constant(tensor, buffers[number])
        for i, tensor in enumerate(tensors)
        if len(buffers[number := tensor.scalar(2, "I")])
    }
    operators = []
    for operator in graph.tables(3):
        step = _operator(operator, codes[operator.scalar(0, "I")])
        if step.name in ("DEQUANTIZE", "DENSIFY"):  # of constants alone
            constants[step.outputs[0]] = constants.pop(step.inputs[0])
        else:
            operators.append(step)
    return Graph(
        tuple(tuple(int(n) for n in tensor.vector(0, "<i4")) for tensor in tensors),
        {i: v.astype(np.float32) if v.dtype.kind == "f" else v for i, v in constants.items()},
        tuple(operators),
        tuple(int(i) for i in graph.vector(1, "<i4")),
        {tensors[i].text(3): int(i) for i in graph.vector(2, "<i4")},
    )


class _Table:
    """A table of a FlatBuffer: fields by number, each of which may be missing."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._fields = start - struct.unpack_from("<i", data, start)[0]

    def _at(self, field: int) -> int | None:
        (size,) = struct.unpack_from("<H", self._data, self._fields)
        if 4 + 2 * field >= size:
            return None
        (offset,) = struct.unpack_from("<H", self._data, self._fields + 4 + 2 * field)
        return self._start + offset if offset else None

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._data, place)[0])

    def scalar(self, field: int, form: str) -> Any:
        at = self._at(field)
        return 0 if at is None else struct.unpack_from("<" + form, self._data, at)[0]

    def vector(self, field: int, dtype: str) -> np.ndarray:
        at = self._at(field)
        if at is None:
            return np.zeros(0, dtype)
        start = self._follow(at)
        return np.frombuffer(
            self._data, dtype, struct.unpack_from("<I", self._data, start)[0], start + 4
        )

    def text(self, field: int) -> str:
        return self.vector(field, "<u1").tobytes().decode()

    def table(self, field: int) -> _Table | None:
        at = self._at(field)
        return None if at is None else _Table(self._data, self._follow(at))

    def tables(self, field: int) -> Iterator[_Table]:
        at = self._at(field)
        if at is None:
            return
        start = self._follow(at)
        for k in range(struct.unpack_from("<I", self._data, start)[0]):
            yield _Table(self._data, self._follow(start + 4 + 4 * k))


def _operator_name(code: _Table) -> str:
    number = max(code.scalar(0, "b"), code.scalar(3, "i"))  # the first field ends at 127
    name = code.text(1) if number == CUSTOM else OPERATORS.get(number)
    if name is None:
        raise ValueError(f"operator {number} of TensorFlow Lite is not known here")
    return name


def _operator(table: _Table, name: str) -> Operator:
    options = table.table(4)
    values = {
        key: options.scalar(field, form)
        for key, (field, form) in OPTIONS.get(name, {}).items()
        if options is not None
    }
    own = table.vector(5, "<u1").tobytes()
    return Operator(
        name,
        tuple(int(i) for i in table.vector(1, "<i4")),
        tuple(int(i) for i in table.vector(2, "<i4")),
        values | (flexible(own) if own else {}),
    )


def _constant(tensor: _Table, raw: np.ndarray) -> np.ndarray:
    values = raw.view(DTYPES[tensor.scalar(1, "b")])
    shape = tensor.vector(0, "<i4")
    sparsity = tensor.table(6)
    if sparsity is None:
        return values.reshape(shape)
    return _dense(values, shape, sparsity)


def _dense(values: np.ndarray, shape: np.ndarray, sparsity: _Table) -> np.ndarray:
    """Lay out values that are stored without their zeros.

    The dimensions are walked in an order of their own, blocks within some of them as dimensions
    that follow. Each lists the places that hold something: all of them (a size), or those named
    between two bounds per entry of the dimension before.
    """
    order = sparsity.vector(0, "<i4")
    blocks = sparsity.vector(1, "<i4")
    levels = list(sparsity.tables(2))
    entries = np.zeros((1, 0), np.int64)  # the index so far, in walking order
    rank = np.zeros(1, np.int64)  # which entry of the level before
    for level in levels:
        if level.scalar(0, "b") == 0:
            size = level.scalar(1, "i")
            here = np.tile(np.arange(size), len(entries))
            entries = np.c_[np.repeat(entries, size, 0), here]
            rank = np.repeat(rank, size) * size + here
        else:
            bounds, named = (_indices(level, field) for field in (2, 4))
            counts = bounds[rank + 1] - bounds[rank]
            rank = np.concatenate(
                [np.arange(bounds[r], bounds[r + 1]) for r in rank] or [np.zeros(0, np.int64)]
            )
            entries = np.c_[np.repeat(entries, counts, 0), named[rank]]
    place = np.zeros((len(entries), len(shape)), np.int64)
    for column, dimension in enumerate(order):
        if dimension < len(shape):
            place[:, dimension] += entries[:, column]
        else:  # within a block, whose dimension has counted blocks
            size = levels[column].scalar(1, "i")
            blocked = blocks[dimension - len(shape)]
            place[:, blocked] = place[:, blocked] * size + entries[:, column]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(place.T)] = values[rank]
    return dense


def _indices(level: _Table, field: int) -> np.ndarray:
    """A list of whole numbers, whose width is told by the field before it."""
    table = level.table(field + 1)
    dtype = {1: "<i4", 2: "<u2", 3: "<u1"}[level.scalar(field, "B")]
    if table is None:
        raise ValueError("a sparse tensor lacks its indices")
    return table.vector(0, dtype).astype(np.int64)


def flexible(data: bytes) -> dict[str, Any]:
    """A FlexBuffer that holds a map: whole numbers, floats and lists of whole numbers by name."""
    width, kind = data[-1], data[-2]
    if kind >> 2 != 9:
        raise ValueError("options that are no map")
    root = len(data) - 2 - width
    values = root - _whole(data, root, width)
    wide = 1 << (kind & 3)
    count = _whole(data, values - wide, wide)
    keys = values - 3 * wide
    keys -= _whole(data, keys, wide)
    key_width = _whole(data, values - 2 * wide, wide)
    return {
        _key(data, keys + i * key_width, key_width): _value(
            data, values + i * wide, wide, data[values + count * wide + i]
        )
        for i in range(count)
    }


def _whole(data: bytes, at: int, width: int, signed: bool = False) -> int:
    return int.from_bytes(data[at : at + width], "little", signed=signed)


def _key(data: bytes, at: int, width: int) -> str:
    start = at - _whole(data, at, width)
    return data[start : data.index(b"\0", start)].decode()


def _value(data: bytes, at: int, width: int, kind: int) -> Any:
    what, wide = kind >> 2, 1 << (kind & 3)
    if what in (1, 2):
        return _whole(data, at, width, signed=what == 1)
    if what == 3:
        return struct.unpack_from({4: "<f", 8: "<d"}[width], data, at)[0]
    if what in (11, 12):
        start = at - _whole(data, at, width)
        count = _whole(data, start - wide, wide)
        return [_whole(data, start + i * wide, wide, what == 11) for i in range(count)]
    raise ValueError(f"an option of kind {what} is not known here")
