"""How often a run of a compiled program executes each instruction: the program walked from its entry.

    times(body) = times(while) · trips     times(condition) = times(while) · (trips + 1)
    trips = ⌈(limit − start) / step⌉

The trips are `known_trip_count` where the compiler left it. libtpu does not, so they are found again from the text: the
condition compares an entry of the loop's tuple with a constant, the body adds a constant to it, it begins at one. For
example, of a loop that libtpu has unrolled twice:

    %body       %i = get-tuple-element(%p), index=1                             entry 1
                %limit.1 = get-tuple-element(%p), index=2                       entry 2
                %next = add(%i, %two)                                           entry 1 + 2
                ROOT tuple(%shard, %next, %limit.1)                             entry 2 is handed on as it came
    %condition  ROOT compare(%i.1, %limit), direction=LT                        entry 1 < entry 2
    ENTRY       while(tuple(%x, %zero, %seven)), condition=…, body=…            entry 1 begins at 0, entry 2 is 7

    trips = ⌈(7 − 0) / 2⌉ = 4: what the body holds runs 4 times, the comparison 5

A condition that is a conjunction (decode until the limit, or until every row is done) gives an upper bound: the loop is
listed in `bounded`. One that gives nothing is walked once and listed in `unknown`.

Of the branches of a conditional the heaviest is walked, by bytes of results. Reducers, comparators and others that are
applied to elements are not walked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxalign.plan.hlo import Computation, Instruction, Module

PASSING = frozenset({"copy", "copy-start", "copy-done", "bitcast", "convert", "reshape", "opt-barrier"})
"""What hands its operand's value on, as far as counting goes."""
RUNS = dict.fromkeys(("fusion", "async-start"), "calls") | dict.fromkeys(("call", "call-start"), "to_apply")
RUNS["custom-call-start"] = "called_computations"  # what libtpu gives to the SparseCores


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
                # what is asynchronous or fused stays so however deep it calls on
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
            # which one runs is known at run time only; the heaviest errs on the safe side
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
        # a term that is not understood can only end the loop earlier than the others do
        if not found:
            self.unknown[loop.name] = None
        elif len(found) < len(counts):
            self.bounded[loop.name] = None
        return min(found, default=1)

    def terms(self, frame: _Frame, name: str) -> list[tuple[_Frame, Instruction]]:
        """What the condition joins with `and`."""
        # compilers fuse conditions: the comparison may stand in a fusion, and its operands behind that one's parameters
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
            # 7 > i is i < 7
            left, right = right, left
            direction = {"GT": "LT", "GE": "LE", "LT": "GT", "LE": "GE"}.get(direction, direction)
        if not left or not right or left.index is None or direction == "EQ":
            return None
        start, limit = self.start(body, left.index), right.offset
        step = self.item(body, body.computation.root, left.index)
        if right.index is not None or start is None or not step or step.index != left.index or step.offset == 0:
            return None
        # of `i + offset < limit`; <= and >= let the limit in. Counting down, distance and step are both negative
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
            # what the body hands on as it got it, such as the limit, is the constant that it began with
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
            if opcode == "add" and left and left.index is None:  # 1 + i; and 1 − i is no counter
                left, right = right, left
            if left and right and right.index is None:
                return _Affine(left.index, left.offset + (right.offset if opcode == "add" else -right.offset))
        return None


def walk(module: Module) -> Walk:
    """Every instruction that a run of the program executes, with how often it does."""
    walker = _Walker(module)
    walker.visit(_Frame(module.computations[module.entry]), 1, False, False)
    return Walk(tuple(walker.executed), tuple(walker.bounded), tuple(walker.unknown))
