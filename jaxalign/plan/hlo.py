"""The text of a compiled program: its computations, its instructions, and how often each of them runs.

Reads what `compiled.as_text()` prints of optimised HLO, by libtpu and by XLA for CPUs and GPUs. The walk starts at the
entry and multiplies by the trip counts of loops:

    times(body) = times(while) · trips     times(condition) = times(while) · (trips + 1)
    trips = ⌈(limit − start) / step⌉

The count is `known_trip_count` where the compiler left it. libtpu does not, so it is found again from the text: the
condition compares an entry of the loop's tuple with a constant, the body adds a constant to it, it begins at one. A
condition that is a conjunction (decode until the limit, or until every row is done) gives an upper bound: the loop is
listed in `bounded`. One that gives nothing is walked once and listed in `unknown`.

Of the branches of a conditional the heaviest is walked, by bytes of results. Reducers, comparators and others that are
applied to elements are not walked.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from jaxalign.errors import JaxalignError

BITS = {"pred": 8, "c64": 64, "c128": 128, "token": 0, "opaque": 0}
HBM = 0
PASSING = frozenset({"copy", "copy-start", "copy-done", "bitcast", "convert", "reshape", "opt-barrier"})
RUNS = dict.fromkeys(("fusion", "async-start"), "calls") | dict.fromkeys(("call", "call-start"), "to_apply")
RUNS["custom-call-start"] = "called_computations"  # what libtpu gives to the SparseCores
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
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Bytes without padding; sub-byte types are rounded up over the whole array."""
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
        if not name:
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
        elif open_line:  # an attribute that holds a line break
            open_line.append(" " + line)
    if entry not in computations:
        raise TextError("the text has no ENTRY computation: pass what compiled.as_text() returns")
    return Module(computations, entry, text[: text.find("\n")])


def _instruction(line: str) -> tuple[Instruction, bool]:
    matched = _INSTRUCTION.match(line)
    if matched is None:
        raise TextError(f"an instruction that cannot be read: {line.strip()[:120]!r}")
    root, name, kind, opcode, rest = matched.groups()
    end = rest.find("), ")
    end = end if end >= 0 else rest.rfind(")")
    inside = rest[:end]
    leaf = opcode in ("constant", "parameter")
    operands = () if leaf else tuple(_OPERAND.findall(inside))
    return Instruction(name, opcode, kind, operands, inside[:64] if leaf else "", rest[end + 1 :]), bool(root)


@dataclass(frozen=True)
class Executed:
    """An instruction with what the walk knows of it."""

    instruction: Instruction
    computation: Computation
    times: int
    """how often one run of the program executes it"""
    fused: bool
    """inside a fusion: it computes, but its operands and result are no buffers"""
    asynchronous: bool
    """inside an asynchronous call"""


@dataclass(frozen=True)
class Walk:
    """Everything a run of the program executes. `bounded` and `unknown` name loops, see the module."""

    executed: tuple[Executed, ...]
    bounded: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class _Affine:
    """`offset` plus entry `index` of the loop's tuple, or the constant `offset` where `index` is None."""

    index: int | None
    offset: int


@dataclass(frozen=True)
class _Frame:
    """A computation and where it was called from: what resolves its parameters."""

    computation: Computation
    caller: "_Frame | None" = None
    call: Instruction | None = None

    @property
    def loop(self) -> bool:
        return self.call is not None and self.call.opcode == "while"

    def argument(self, parameter: Instruction) -> "tuple[_Frame, str] | None":
        """What the caller passes for a parameter; None in the entry and in a loop, whose tuple changes."""
        if self.caller is None or self.call is None or self.loop:
            return None
        return self.caller, self.call.operands[int(parameter.literal)]


@dataclass
class _Walker:
    module: Module
    executed: list[Executed] = field(default_factory=list)
    bounded: dict[str, None] = field(default_factory=dict)
    unknown: dict[str, None] = field(default_factory=dict)

    def enter(self, frame: _Frame, call: Instruction, name: str = "") -> _Frame:
        return _Frame(self.module.computations[name or call.called["calls"]], frame, call)

    def visit(self, frame: _Frame, times: int, fused: bool, asynchronous: bool) -> None:
        for instruction in frame.computation.instructions.values():
            self.executed.append(Executed(instruction, frame.computation, times, fused, asynchronous))
            for name, trips in self.calls(frame, instruction):
                beside = asynchronous or instruction.opcode.endswith("-start")
                inside = fused or instruction.opcode == "fusion"
                self.visit(self.enter(frame, instruction, name), times * trips, inside, beside)

    def calls(self, frame: _Frame, instruction: Instruction) -> Iterator[tuple[str, int]]:
        """Computations that one execution of the instruction runs, and how often."""
        opcode = instruction.opcode
        if opcode == "while":
            trips = self.trips(frame, instruction)
            yield from ((instruction.called["condition"], trips + 1), (instruction.called["body"], trips))
        elif opcode == "conditional":
            yield max(instruction.branches, key=self.weight), 1
        elif RUNS.get(opcode) in instruction.called:
            yield instruction.called[RUNS[opcode]], 1

    def weight(self, name: str) -> int:
        """Bytes of all results of a computation and of what it calls, bodies once."""
        instructions = self.module.computations[name].instructions.values()
        inner = [c for i in instructions for c in (*i.branches, i.called.get("calls"), i.called.get("body")) if c]
        own = sum(shape.bytes for i in instructions for shape in i.shapes)
        return own + sum(self.weight(called) for called in inner)

    def trips(self, frame: _Frame, loop: Instruction) -> int:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known[1])
        condition = self.enter(frame, loop, loop.called["condition"])
        body = self.enter(frame, loop, loop.called["body"])
        terms = self.terms(condition, condition.computation.root)
        counts = [self.count(body, where, term) for where, term in terms]
        found = [count for count in counts if count is not None]
        if not found:
            self.unknown[loop.name] = None
        elif len(found) < len(counts):
            self.bounded[loop.name] = None
        return min(found, default=1)

    def terms(self, frame: _Frame, name: str) -> list[tuple[_Frame, Instruction]]:
        """What the condition joins with `and`."""
        instruction = frame.computation.instructions[name]
        argument = frame.argument(instruction) if instruction.opcode == "parameter" else None
        if argument:
            return self.terms(*argument)
        if instruction.opcode == "fusion":
            inner = self.enter(frame, instruction)
            return self.terms(inner, inner.computation.root)
        if instruction.opcode == "and" or instruction.opcode in PASSING:
            return [term for operand in instruction.operands for term in self.terms(frame, operand)]
        return [(frame, instruction)]

    def count(self, body: _Frame, where: _Frame, compare: Instruction) -> int | None:
        """Trips that a comparison of the loop's counter with a constant allows; None where it is something else."""
        if compare.opcode != "compare":
            return None
        left, right = (self.value(where, operand) for operand in compare.operands)
        direction = compare.attribute("direction") or "EQ"
        if right and right.index is not None and (not left or left.index is None):
            left, right = right, left
            direction = {"GT": "LT", "GE": "LE", "LT": "GT", "LE": "GE"}.get(direction, direction)
        if not left or not right or left.index is None or direction == "EQ":
            return None
        start, limit = self.start(body, left.index), right.offset
        step = self.item(body, body.computation.root, left.index)
        if right.index is not None or start is None or not step or step.index != left.index or step.offset == 0:
            return None
        distance = limit - left.offset - start + {"LE": 1, "GE": -1}.get(direction, 0)
        return max(0, -(-distance // step.offset))

    def start(self, frame: _Frame, index: int) -> int | None:
        """The constant at which an entry of a loop's tuple begins."""
        assert frame.caller is not None
        assert frame.call is not None
        value = self.item(frame.caller, frame.call.operands[0], index)
        return value.offset if value is not None and value.index is None else None

    def item(self, frame: _Frame, name: str, index: int) -> _Affine | None:
        """Entry `index` of the tuple that an instruction makes."""
        instruction = frame.computation.instructions[name]
        opcode = instruction.opcode
        argument = frame.argument(instruction) if opcode == "parameter" else None
        if argument:
            return self.item(*argument, index)
        if opcode == "parameter" and frame.loop:
            start = self.start(frame, index) if self.kept(frame, index) else None
            return _Affine(index, 0) if start is None else _Affine(None, start)
        if opcode == "tuple":
            return self.value(frame, instruction.operands[index])
        if opcode == "fusion":
            inner = self.enter(frame, instruction)
            return self.item(inner, inner.computation.root, index)
        return self.item(frame, instruction.operands[0], index) if opcode in PASSING else None

    def kept(self, frame: _Frame, index: int) -> bool:
        """Whether the body of a loop hands on an entry of its tuple as it got it."""
        assert frame.call is not None
        body = self.module.computations[frame.call.called["body"]]
        root = body.instructions[body.root]
        entry = body.instructions[root.operands[index]] if root.opcode == "tuple" else root
        same = entry.opcode == "get-tuple-element" and entry.attribute("index") == str(index)
        return same and entry.operands[0] == body.parameters[0]

    def value(self, frame: _Frame, name: str) -> _Affine | None:
        """A scalar as a constant, or as an entry of the innermost loop's tuple plus a constant; None for others."""
        instruction = frame.computation.instructions[name]
        opcode = instruction.opcode
        argument = frame.argument(instruction) if opcode == "parameter" else None
        if argument:
            return self.value(*argument)
        if opcode == "constant" and re.fullmatch(r"-?\d+", instruction.literal):
            return _Affine(None, int(instruction.literal))
        if opcode in PASSING:
            return self.value(frame, instruction.operands[0])
        if opcode == "get-tuple-element":
            return self.item(frame, instruction.operands[0], int(instruction.attribute("index") or 0))
        if opcode == "fusion":
            inner = self.enter(frame, instruction)
            return self.value(inner, inner.computation.root)
        if opcode in ("add", "subtract"):
            left, right = (self.value(frame, operand) for operand in instruction.operands)
            if opcode == "add" and left and left.index is None:
                left, right = right, left
            if left and right and right.index is None:
                return _Affine(left.index, left.offset + (right.offset if opcode == "add" else -right.offset))
        return None


def walk(module: Module) -> Walk:
    """Every instruction that a run of the program executes, with how often it does."""
    walker = _Walker(module)
    walker.visit(_Frame(module.computations[module.entry]), 1, False, False)
    return Walk(tuple(walker.executed), tuple(walker.bounded), tuple(walker.unknown))
