"""What one device does in one run of a compiled program: FLOPs, the compiler's cycles and HBM bytes, read off its text.

Everything × the times that the walk found:

    FLOPs       2 · output · contracted, of dot, convolution (positions in the padding not counted) and ragged-dot. As
                compiled: what rematerialisation computes again is counted again.
    cycles      libtpu's `estimated_cycles` of matrix products (`COST_MODEL_TYPE_CLASSIC`), at the clock of chips.json.
                They hold what tiling loses: see below.
    HBM bytes   operands and results of what is not inside a fusion, where they are in HBM and not in VMEM. Slices of an
                operand count as what they read, updates in place as what they write. Collectives count nothing.

What `estimated_cycles` is (libtpu 0.0.42 and 0.0.52, single products and sums compiled for each generation): for
bf16 products of 4,096³ it is 1.04 (v5p), 1.03 (v5e), 1.15 (v6e), 1.14 (v4) and 1.21 (TPU7x) times FLOPs / peak, of the
whole device. Beside other fusions it is no time: adding two bf16 arrays "takes" 3.1 to 4.2 times what the published
bandwidth needs (v5p, v5e, v6e), and fp32, twice the bytes, 8 to 12 % more than bf16. Those figures are not used.
Collectives, custom calls, asynchronous copies and scalar work have none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np

from jaxalign.plan.hlo import HBM, Computation, Instruction, Module, Shape, TextError
from jaxalign.plan.walk import Walk

# the custom calls that compute; others allocate, or mark a place in the program
_KERNEL = re.compile(r'custom_call_target="(tpu_custom_call|mosaic_gpu|__gpu\$|__cublas|__cudnn|__onednn)')
# what moves nothing; what it calls is walked on its own
_FREE = frozenset(
    {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "call-start"}
    | {"async-start", "custom-call-start", "after-all", "partition-id", "replica-id", "opt-barrier", "send", "recv"}
)
_COPIES = ("copy-start", "slice-start", "dynamic-slice-start", "dynamic-update-slice-start")
_COLLECTIVE = re.compile(r"^(all-|reduce-scatter|collective-|ragged-all-to-all)")
_IN_PLACE = ("dynamic-update-slice", 0)
_LOOKUPS = ("dynamic-slice", "slice", "gather")


@dataclass(frozen=True)
class Operation:
    """A scheduled instruction: what one execution of it takes, and how often it runs."""

    name: str
    times: int
    flops: int
    cycles: int
    """the compiler's, of matrix products; 0 where it has none"""
    hbm_bytes: int
    asynchronous: bool


@dataclass(frozen=True)
class Kernel:
    """A custom call that computes (Pallas): its FLOPs are not in the text."""

    name: str
    times: int
    hbm_bytes: int


@dataclass(frozen=True)
class DeviceWork:
    """What one device does in one run of the program."""

    operations: tuple[Operation, ...]
    kernels: tuple[Kernel, ...]
    """in the order of the text; several may bear one name"""

    @property
    def flops(self) -> int:
        """FLOPs of matrix products as compiled, kernels not included."""
        return sum(o.times * o.flops for o in self.operations)

    @property
    def cycles(self) -> int:
        """The compiler's, of matrix products."""
        return sum(o.times * o.cycles for o in self.operations)

    @property
    def hbm_bytes(self) -> int:
        """Bytes read and written, kernels included."""
        kernels = sum(k.times * k.hbm_bytes for k in self.kernels)
        return kernels + sum(o.times * o.hbm_bytes for o in self.operations)


def device_work(module: Module, walk: Walk) -> DeviceWork:
    """The work of a walked program. Raises TextError for a product that cannot be read."""
    reader = _Reader(module)
    operations, kernels = [], []
    for executed in walk.executed:
        instruction = executed.instruction
        opcode = instruction.opcode
        # a fusion is counted as one, by its operands and results; a pair of start and done at its start
        if executed.fused or opcode in _FREE or opcode.endswith(("-done", "-update")):
            continue
        moved = reader.moved(executed.computation, instruction)
        if opcode == "custom-call" and _KERNEL.search(instruction.attributes):
            # XLA numbers the calls of one kernel: logp_head.3
            kernels.append(Kernel(re.sub(r"\.\d+$", "", instruction.name), executed.times, moved))
            continue
        flops = reader.flops(executed.computation, instruction)
        beside = executed.asynchronous or opcode in _COPIES
        operations.append(Operation(instruction.name, executed.times, flops, _cycles(instruction), moved, beside))
    return DeviceWork(tuple(operations), tuple(kernels))


def buffers(walk: Walk) -> frozenset[Shape]:
    """Every array that the program holds in a memory: results of what is not inside a fusion, tuples taken apart."""
    return frozenset(shape for e in walk.executed if not e.fused for shape in e.instruction.shapes)


def _cycles(instruction: Instruction) -> int:
    if '"cost_model_type":"COST_MODEL_TYPE_CLASSIC"' not in instruction.attributes:
        return 0
    return int(instruction.attribute("estimated_cycles") or 0)


class _Reader:
    """FLOPs and bytes of instructions, fusions entered; remembers the computations it has read."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.inside: dict[str, int] = {}
        self.reads: dict[tuple[str, int], int] = {}

    def flops(self, computation: Computation, instruction: Instruction) -> int:
        opcode = instruction.opcode
        if opcode == "dot":
            return _dot(computation, instruction)
        if opcode == "convolution":
            return _convolution(computation, instruction)
        if opcode == "ragged-dot":
            left = computation.operand_shapes(instruction)[0][0]
            return 2 * left.elements * instruction.shapes[0].dims[-1]
        if opcode != "fusion":
            return 0
        name = instruction.called["calls"]
        if name not in self.inside:
            inner = self.module.computations[name]
            self.inside[name] = sum(self.flops(inner, i) for i in inner.instructions.values())
        return self.inside[name]

    def moved(self, computation: Computation, instruction: Instruction) -> int:
        """HBM bytes read and written by one execution."""
        opcode = instruction.opcode
        if _COLLECTIVE.match(opcode) or opcode in _FREE:
            return 0  # what links carry is slower than what HBM does for it
        operands = computation.operand_shapes(instruction)
        if opcode in _COPIES:
            return _of_copy(instruction, operands)
        if opcode == "custom-call" and not _KERNEL.search(instruction.attributes):
            return 0  # allocations and marks
        if opcode == "fusion":
            # how much of an operand is read shows inside, in which memory it is only outside
            inner = self.module.computations[instruction.called["calls"]]
            read = sum(min(self.read(inner, i), _hbm(shapes)) for i, shapes in enumerate(operands) if _hbm(shapes) > 0)
            return read + self.written(inner, instruction)
        return _plain(opcode, operands, instruction.shapes)

    def read(self, inner: Computation, number: int) -> int:
        """Bytes that a fusion reads of its parameter, by what uses it; spaces are the caller's."""
        key = inner.name, number
        if key not in self.reads:
            name = inner.parameters[number]
            self.reads[key] = self.used(inner, name)
        return self.reads[key]

    def used(self, inner: Computation, name: str) -> int:
        whole = sum(shape.bytes for shape in inner.instructions[name].shapes)
        total = 0
        for user in inner.users.get(name, ()):
            place = user.operands.index(name)
            if user.opcode == "bitcast":
                total += self.used(inner, user.name)
            elif user.opcode in _LOOKUPS and place == 0:
                total += sum(shape.bytes for shape in user.shapes)
            elif user.opcode == "fusion":
                total += self.read(self.module.computations[user.called["calls"]], place)
            # handed on, sent, or updated in place, it is not read; any other use reads all of it
            elif user.opcode != "tuple" and not _COLLECTIVE.match(user.opcode) and (user.opcode, place) != _IN_PLACE:
                return whole
        return min(total, whole)

    def written(self, inner: Computation, fusion: Instruction) -> int:
        """Bytes that a fusion writes to HBM: of an update in place the update, of an operand passed through nothing."""
        root = inner.instructions[inner.root]
        # a link of a chain that is one collective (see `collectives`)
        if (root.attribute("custom_call_target") or "").startswith("AsyncCollective"):
            return 0
        parts = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if len(parts) != len(fusion.shapes):
            return _hbm(fusion.shapes)
        return sum(
            self.part(inner, part, shape)
            for part, shape in zip(parts, fusion.shapes, strict=True)
            if shape.space == HBM
        )

    def part(self, inner: Computation, part: Instruction, shape: Shape) -> int:
        while part.opcode == "bitcast":
            part = inner.instructions[part.operands[0]]
        if part.opcode == "parameter" or _COLLECTIVE.match(part.opcode):
            return 0
        if part.opcode == "dynamic-update-slice":
            return sum(update.bytes for update in inner.instructions[part.operands[1]].shapes)
        return shape.bytes


def _hbm(shapes: Iterable[Shape]) -> int:
    return sum(shape.bytes for shape in shapes if shape.space == HBM and shape.dims)  # scalars have their own memory


def _plain(opcode: str, operands: tuple[tuple[Shape, ...], ...], results: tuple[Shape, ...]) -> int:
    # of the table only the rows that are looked up
    if opcode in _LOOKUPS:
        return _hbm(results) + sum(shape.bytes for shape in results if operands and _hbm(operands[0]))
    if opcode == "dynamic-update-slice":
        return _hbm(operands[1]) + (_hbm(operands[1]) if _hbm(results) else 0)
    return _hbm(results) + sum(_hbm(shapes) for shapes in operands)


def _of_copy(instruction: Instruction, operands: tuple[tuple[Shape, ...], ...]) -> int:
    """An asynchronous copy moves its destination's bytes: once for each end that is in HBM."""
    # the result of a start names both ends, and a flag that tells when it is done
    arrays = [shape for shape in instruction.shapes if shape.elements > 1]
    if not arrays:
        return 0
    size = min(shape.bytes for shape in arrays)
    ends = (arrays[0].space, arrays[-1].space if len(arrays) > 1 else operands[0][0].space)
    return size * sum(space == HBM for space in ends)


def _dims(instruction: Instruction, name: str) -> tuple[int, ...]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", instruction.attributes)
    return tuple(int(dim) for dim in found[1].split(",") if dim) if found else ()


def _dot(computation: Computation, instruction: Instruction) -> int:
    left = computation.operand_shapes(instruction)[0][0]
    contracted = prod(left.dims[dim] for dim in _dims(instruction, "lhs_contracting_dims"))
    return 2 * instruction.shapes[0].elements * contracted


def _convolution(computation: Computation, instruction: Instruction) -> int:
    """2 · batch · output features · the kernel's input features · pairs (output, window position) that meet data.

    XLA turns batched and windowed matrix products into convolutions whose windows lie mostly in the padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise TextError(f"convolution {instruction.name} has no dim_labels")
    left, right = (shapes[0] for shapes in computation.operand_shapes(instruction)[:2])
    out = instruction.shapes[0]
    pairs = 1
    for axis in sorted(label for label in labels[3] if label.isdigit()):
        sizes = (
            left.dims[labels[1].index(axis)],
            right.dims[labels[2].index(axis)],
            out.dims[labels[3].index(axis)],
        )
        pairs *= _positions(*sizes, *_window(instruction, int(axis)))
    features = right.dims[labels[2].index("i")] * out.dims[labels[3].index("f")] * out.dims[labels[3].index("b")]
    return 2 * pairs * features


def _window(instruction: Instruction, axis: int) -> tuple[int, int, int, int]:
    """Stride, padding before, dilation of the data, dilation of the window, along one axis."""
    found = re.search(r"\bwindow=\{([^}]*)\}", instruction.attributes)
    fields = dict(part.split("=") for part in found[1].split()) if found else {}

    def at(name: str, default: str) -> str:
        return fields[name].split("x")[axis] if name in fields else default

    return (
        int(at("stride", "1")),
        int(at("pad", "0_0").split("_")[0]),
        int(at("lhs_dilate", "1")),
        int(at("rhs_dilate", "1")),
    )


@lru_cache(maxsize=4096)
def _positions(data: int, window: int, out: int, stride: int, before: int, spread: int, dilate: int) -> int:
    """Pairs (output position, window position) that fall on an element of the data."""
    starts = np.arange(out) * stride - before
    count = 0
    for step in range(window):
        at = starts + step * dilate
        count += int(np.sum((at >= 0) & (at <= (data - 1) * spread) & (at % spread == 0)))
    return count
