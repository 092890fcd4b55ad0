"""The text of a compiled program: its computations and their instructions.

Reads what `compiled.as_text()` prints of optimised HLO, by libtpu and by XLA for CPUs and GPUs. A line and what is made
of it:

    %fusion.2 = bf16[1,64,256]{2,1,0:T(8,128)(2,1)S(1)} fusion(%w, %i), kind=kLoop, calls=%slice, backend_config={…}

    name        fusion.2
    type        bf16[1,64,256], an array of 2 · 64 · 256 bytes in the memory S(1), VMEM; no S(n) would be HBM. The rest
                of the layout, order of dimensions and tiling, is left out: sizes are without padding
    opcode      fusion
    operands    w, i: names of instructions of the same computation
    attributes  what follows, read only when it is asked for: calls=%slice is the computation that is fused
"""

import math
import re
from dataclasses import dataclass
from functools import cached_property

from jaxalign.errors import JaxalignError

# of other types the first number is the width: s32, bf16, f8e4m3fn
BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
HBM = 0
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]+m[0-9]+[a-z0-9]*)?)\[([0-9,<=]*)\](\{[^{}]*\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+?) ([a-z][\w\-]*)\((.*)$")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_OPERAND = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|called_computations|(?:true|false)_computation)=\{?%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")


class TextError(JaxalignError):
    """Compiled text that this reader does not understand; names the instruction."""


@dataclass(frozen=True)
class Shape:
    """One array: element type, dimensions of the local shard, and the memory it lives in."""

    dtype: str
    dims: tuple[int, ...]
    space: int = HBM
    """memory space: 0 HBM, 1 VMEM, 5 host, others scalar memory and flags"""

    @property
    def elements(self) -> int:
        """Product of the dimensions, 1 for a scalar."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding; sub-byte types are rounded up over the whole array. TextError for unknown types."""
        return -(-self.elements * _bits(self.dtype) // 8)


def _bits(dtype: str) -> int:
    if dtype in BITS:
        return BITS[dtype]
    width = re.match(r"[a-z]+(\d+)", dtype)
    if width is None:
        raise TextError(f"element type {dtype!r} is not known: add its width to jaxalign/plan/hlo.py")
    return int(width[1])


def shapes_of(text: str) -> tuple[Shape, ...]:
    """The arrays of a printed type, tuples flattened in order, layouts reduced to the memory space S(n)."""
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        space = re.search(r"S\((\d+)\)", layout) if layout else None
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Shape(dtype, sizes, int(space[1]) if space else HBM))
    return tuple(found)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation. `attributes` is what follows the operands, as printed."""

    name: str
    opcode: str
    type: str
    """the result's type, as printed"""
    operands: tuple[str, ...]
    literal: str
    """what stands between the parentheses: a constant's value, a parameter's number"""
    attributes: str

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        """The result's arrays; a tuple's are flattened."""
        return shapes_of(self.type)

    @cached_property
    def called(self) -> dict[str, str]:
        """Role (calls, body, condition, to_apply, …) → name of a computation."""
        return dict(_CALLED.findall(self.attributes)) if "=" in self.attributes else {}

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the computations that a conditional chooses among."""
        listed = _BRANCHES.search(self.attributes)
        if listed:
            return tuple(_OPERAND.findall(listed[1]))
        return tuple(self.called[role] for role in ("true_computation", "false_computation") if role in self.called)

    def attribute(self, name: str) -> str | None:
        """The value of `name=value` or of `"name":"value"` in the backend's configuration; None where absent."""
        found = re.search(rf'\b{name}=("[^"]*"|[\w.\-]+)|"{name}":"?([\w.\-]+)', self.attributes)
        return (found[1] or found[2]).strip('"') if found else None


@dataclass(frozen=True)
class Computation:
    """A named list of instructions in the order in which they are scheduled."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    @cached_property
    def parameters(self) -> dict[int, str]:
        """Number of a parameter → name of its instruction."""
        return {int(i.literal): i.name for i in self.instructions.values() if i.opcode == "parameter"}

    @cached_property
    def users(self) -> dict[str, tuple[Instruction, ...]]:
        """Name of an instruction → those that take it as an operand."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                found.setdefault(operand, []).append(instruction)
        return {name: tuple(users) for name, users in found.items()}

    def operand_shapes(self, instruction: Instruction) -> tuple[tuple[Shape, ...], ...]:
        """The arrays of each operand; an operand that is no tuple has one."""
        return tuple(self.instructions[name].shapes for name in instruction.operands if name in self.instructions)


@dataclass(frozen=True)
class Module:
    """A compiled program; `header` is its first line."""

    computations: dict[str, Computation]
    entry: str
    header: str

    @property
    def partitions(self) -> int:
        """Devices of the program: `num_partitions` × `replica_count` of the header, 1 where it has neither."""
        return math.prod(int(size) for size in re.findall(r"\b(?:num_partitions|replica_count)=(\d+)", self.header))


def parse(text: str) -> Module:
    """The program that `compiled.as_text()` prints. Raises TextError where the text has no entry computation."""
    computations: dict[str, Computation] = {}
    lines: dict[str, Instruction] = {}
    name = root = entry = ""
    open_line: list[str] = []

    def close() -> None:
        nonlocal root
        if open_line:
            instruction, is_root = _instruction("".join(open_line))
            lines[instruction.name] = instruction
            root = instruction.name if is_root else root
            open_line.clear()

    for line in text.splitlines():
        if not name:  # between computations
            if header := _HEADER.match(line):
                name, lines, root = header[2], {}, ""
                entry = name if header[1] else entry
        elif line == "}" or line.startswith("}, execution_thread"):
            close()
            computations[name] = Computation(name, lines, root or next(reversed(lines), ""))
            name = ""
        elif _INSTRUCTION.match(line):
            close()
            open_line.append(line)
        elif open_line:  # an attribute that holds a line break, as the metadata of a kernel does
            open_line.append(" " + line)
    if entry not in computations:
        raise TextError("the text has no ENTRY computation: pass what compiled.as_text() returns")
    return Module(computations, entry, text[: text.find("\n")])


def _instruction(line: str) -> tuple[Instruction, bool]:
    matched = _INSTRUCTION.match(line)
    if matched is None:
        raise TextError(f"an instruction that cannot be read: {line.strip()[:120]!r}")
    root, name, kind, opcode, rest = matched.groups()
    # operands are names and have no parentheses of their own, attributes may; some instructions have none of those
    end = rest.find("), ")
    end = end if end >= 0 else rest.rfind(")")
    inside = rest[:end]
    leaf = opcode in ("constant", "parameter")
    operands = () if leaf else tuple(_OPERAND.findall(inside))
    # a large constant is printed whole, and only counters are ever asked for their value
    return Instruction(name, opcode, kind, operands, inside[:64] if leaf else "", rest[end + 1 :]), bool(root)
