"""Runs a network that was read from a TensorFlow Lite file, in PyTorch.

Operators that do the same at the same depth of the graph, each on values and weights of its own
(those that refine lips and both eyes), run as one on their channels side by side: on one image,
calls cost more than sums.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from thbench.data.face.tracker import tflite
from thbench.data.face.tracker.operators import BUILDERS, Group, Run, likeness, shares_input
from thbench.data.face.tracker.tflite import Graph, Operator

MODELS = Path(__file__).parent / "models"
CHUNK = 4  # images at once on a CPU: with more, memory is slower than what it saves in calls


class Network:
    """A network of a TensorFlow Lite file; its weights never change.

    Call it with float32 (n, H, W, C) for its outputs by name, each (n, ...) on its device as the
    file has them. All is computed in 32 bits, whatever autocast or TF32 say.

    Args:
        path: the file.
        device: where to run.

    Raises:
        ValueError: the file needs an operator, or a setting of one, that is not known here.
    """

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._plan = _Plan(tflite.read(path), self.device)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        size = CHUNK if self.device.type == "cpu" else max(1, len(images))
        with torch.inference_mode(), _in_full_precision(self.device):
            parts = [self._plan.run(p) for p in images.to(self.device).split(size)]
            if len(parts) == 1:
                return parts[0]
            return {name: torch.cat([part[name] for part in parts]) for name in self._plan.outputs}


@cache
def shipped(file: str, device: torch.device) -> Network:
    """A network of this package; all who ask for it on a device share it."""
    return Network(MODELS / file, device)


@contextmanager
def _in_full_precision(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
        before = matmul.allow_tf32, convolution.allow_tf32
        matmul.allow_tf32 = convolution.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32, convolution.allow_tf32 = before


@dataclass(frozen=True)
class _Place:
    """Where a tensor of the file is: the ``slot``-th of ``of`` that lie side by side."""

    key: int
    slot: int = 0
    of: int = 1


@dataclass
class _Step:
    run: Run
    inputs: list[int]
    output: int
    done_with: list[int] = field(default_factory=list)


class _Plan:
    """The order of steps, each of which does one operator's work or several alike."""

    def __init__(self, graph: Graph, device: torch.device) -> None:
        graph = _joined(_without_repeats(graph))
        (self._input,) = graph.inputs
        self._places = {self._input: _Place(self._input)}
        self._steps: list[_Step] = []
        self._laid: dict[tuple[_Place, ...], int] = {}
        self._fresh = len(graph.shapes)  # keys beyond the file's numbers
        for members in _groups(graph):
            self._add(members, graph, device)
        self.outputs = {name: self._lay([number]) for name, number in graph.outputs.items()}
        needed = set(self.outputs.values())
        for step in reversed(self._steps):
            step.done_with = [key for key in dict.fromkeys(step.inputs) if key not in needed]
            needed.update(step.inputs)

    def run(self, images: Tensor) -> dict[str, Tensor]:
        values = {self._input: images}
        for step in self._steps:
            values[step.output] = step.run(*[values[key] for key in step.inputs])
            for key in step.done_with:
                del values[key]
        return {name: values[key] for name, key in self.outputs.items()}

    def _add(self, members: list[Operator], graph: Graph, device: torch.device) -> None:
        first = members[0]
        run = BUILDERS[first.name](Group(members, graph, device))
        moving = [p for p, number in enumerate(first.inputs) if number not in graph.constants]
        shared = 0 if shares_input(first) else None
        keys = [
            self._lay([m.inputs[p] for m in members[: 1 if p == shared else None]]) for p in moving
        ]
        for slot, member in enumerate(members):
            self._places[member.outputs[0]] = _Place(first.outputs[0], slot, len(members))
        self._steps.append(_Step(run, keys, first.outputs[0]))

    def _lay(self, numbers: list[int]) -> int:
        """The key under which tensors lie side by side."""
        places = tuple(self._places[number] for number in numbers)
        key = places[0].key
        if places == tuple(_Place(key, slot, len(places)) for slot in range(len(places))):
            return key
        if places not in self._laid:
            keys = list(dict.fromkeys(place.key for place in places))
            parts = [(keys.index(place.key), place.slot, place.of) for place in places]
            self._steps.append(_Step(_gather(parts), keys, self._fresh))
            self._laid[places] = self._fresh
            self._fresh += 1
        return self._laid[places]


def _gather(parts: list[tuple[int, int, int]]) -> Run:
    def run(*sources: Tensor) -> Tensor:
        return torch.cat([sources[k].chunk(of, -1)[slot] for k, slot, of in parts], -1)

    return run


def _without_repeats(graph: Graph) -> Graph:
    """The same graph, where what is computed twice from the same is computed once."""
    first: dict[object, Operator] = {}
    same: dict[int, int] = {}
    for operator in graph.operators:
        operator = replace(operator, inputs=tuple(same.get(i, i) for i in operator.inputs))
        inputs = [_content(graph, number) for number in operator.inputs]
        shape = graph.shapes[operator.outputs[0]]
        known = first.setdefault((operator.name, repr(operator.options), *inputs, shape), operator)
        same[operator.outputs[0]] = known.outputs[0]
    outputs = {name: same[number] for name, number in graph.outputs.items()}
    return replace(graph, operators=tuple(first.values()), outputs=outputs)


def _joined(graph: Graph) -> Graph:
    """The same graph, where a sum and what PReLU makes of it are one operator."""
    uses = Counter(i for operator in graph.operators for i in operator.inputs)
    uses.update(graph.outputs.values())
    sums = {o.outputs[0]: o for o in graph.operators if o.name == "ADD"}
    joined = []
    for operator in graph.operators:
        added = sums.get(operator.inputs[0])
        if operator.name != "PRELU" or not added or uses[operator.inputs[0]] > 1:
            joined.append(operator)
            continue
        joined.remove(added)
        inputs = (*added.inputs, operator.inputs[1])
        joined.append(Operator("ADD, PRELU", inputs, operator.outputs, added.options))
    return replace(graph, operators=tuple(joined))


def _content(graph: Graph, number: int) -> object:
    """What tells a tensor from others: its values if they are constant, else its number."""
    values = graph.constants.get(number)
    return number if values is None else (values.shape, values.dtype.str, values.tobytes())


def _groups(graph: Graph) -> list[list[Operator]]:
    """The operators by depth, those together that run as one."""
    depth: dict[int, int] = {}
    groups: dict[object, list[Operator]] = {}
    for operator in graph.operators:
        level = 1 + max(depth.get(number, 0) for number in operator.inputs)
        depth[operator.outputs[0]] = level
        groups.setdefault((level, likeness(operator, graph)), []).append(operator)
    return sorted(groups.values(), key=lambda members: depth[members[0].outputs[0]])
