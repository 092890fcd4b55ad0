"""What a compiled program sends between devices.

Bytes that one device sends, for a group of g devices and local arrays, with ring algorithms (Patarasuk and Yuan 2009,
J. Parallel Distrib. Comput. 69(2)):

    all-gather          (g − 1) / g · result            = (g − 1) · operand
    reduce-scatter      (g − 1) / g · operand
    all-reduce          2 (g − 1) / g · operand         a reduce-scatter and an all-gather
    all-to-all          (g − 1) / g · operand           not counting that it is forwarded (see `torus`, crossing)
    collective-permute  operand                         0 where every device keeps its own

How compilers print them, libtpu where nothing else is said, and what is made of it:

- `all-reduce-scatter`: a fusion of an all-reduce and the slice that is kept. A reduce-scatter.
- `async_collective_fusion`: a collective spread over a chain of fusions, each of which names it again beside a matrix
  product. It is counted where the chain begins (`AsyncCollectiveStart`), as asynchronous.
- SparseCore offload: a `custom-call-start` whose called computation holds the collective. Asynchronous.
- XLA for GPUs prints every collective as a start and a done; those with `is_sync` wait at once, and are synchronous.
- windowed einsums: loops of collective-permutes beside matrix products. They appear as what they are.
- between slices (DCN): the program is compiled for one slice; `send` and `recv` with `_xla_megascale_transfer_type`
  stand for the collective, whose group is read from `_xla_megascale_target`.

Where no such target is printed (one program over fake devices), a map of partition → slice tells which groups cross.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from jaxalign.plan.hlo import Instruction, Module, TextError
from jaxalign.plan.torus import NEXT, Span, Torus
from jaxalign.plan.walk import Executed, Walk

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
MEGASCALE = {
    "ALL_GATHER": "all-gather",
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
_SAME = {"ragged-all-to-all": "all-to-all", "collective-broadcast": "collective-permute"}
_GROUPS = re.compile(r"replica_groups=(mesh\[[^\]]*\].*? \{[^}]*\}|.*?)(?=, [a-z_]+=|$)")
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}(?=, [a-z_]+=|$)")
_IOTA = re.compile(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)(?= \{))? \{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """One collective of the program."""

    name: str
    kind: str
    dtype: str
    payload_bytes: int
    """bytes of the local operands"""
    group: int
    """devices that take part together; slices where `across_slices`"""
    link_bytes: int
    """bytes that a device sends in one execution"""
    times: int
    """executions in one run of the program"""
    asynchronous: bool
    """other work is scheduled between its start and its end"""
    across_slices: bool
    """over the data-centre network rather than the interconnect of a slice"""
    span: Span = NEXT
    """what the group has of the slice's torus: of its groups the one that has least"""

    @property
    def total_bytes(self) -> int:
        """Bytes that a device sends in one run of the program."""
        return self.times * self.link_bytes


@dataclass(frozen=True)
class Traffic:
    """Executions, and bytes sent by a device, in one run of the program."""

    count: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """Collectives by kind, and bytes a device sends over the slice's interconnect (ICI) and between slices (DCN)."""

    by_kind: dict[str, Traffic]
    ici_bytes: int
    ici_asynchronous_bytes: int
    """the part of `ici_bytes` that other work can hide"""
    dcn_bytes: int
    dcn_asynchronous_bytes: int


def link_bytes(kind: str, operand_bytes: int, group: int) -> int:
    """Bytes a device sends: the formulas of the module. `operand_bytes` are local, rounded up to a byte."""
    shares = {
        "all-gather": (group - 1, 1),
        "reduce-scatter": (group - 1, group),
        "all-reduce": (2 * (group - 1), group),
        "all-to-all": (group - 1, group),
        "collective-permute": (min(group - 1, 1), 1),
    }
    above, below = shares[kind]
    return -(-operand_bytes * above // below)


def groups_of(attributes: str, partitions: int) -> tuple[tuple[int, ...], ...]:
    """The groups of `replica_groups=`, as partition ids.

    Reads explicit lists `{{0,1},{2,3}}`, iota lists `[2,4]<=[4,2]T(1,0)` and axes of a mesh `mesh['a'=2,'b'=4] {'b'}`,
    which may be split (`'b':(2)2`: after a factor of 2, the next 2). Empty means one group of all. Raises TextError for
    anything else.
    """
    found = _GROUPS.search(attributes)
    text = found[1].strip() if found else "{}"
    mesh, iota = _MESH.match(text), _IOTA.match(text)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    if iota:
        return _rows(_iota(iota[2], iota[3]).reshape(_ints(iota[1])))
    if text in ("{}", "{{}}"):
        return (tuple(range(partitions)),)
    lists = tuple(_ints(row) for row in re.findall(r"\{([\d,]+)\}", text))
    if not lists:
        raise TextError(f"replica groups that cannot be read: {text[:80]!r}")
    return lists


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _rows(table: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(device) for device in row) for row in table)


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """0, 1, 2 … in an array of `sizes`, its axes transposed to `order`, flat."""
    ids = np.arange(prod(_ints(sizes))).reshape(_ints(sizes))
    return ids.transpose(_ints(order)).reshape(-1) if order else ids.reshape(-1)


def _mesh_groups(axes: str, devices: str | None, chosen: str) -> tuple[tuple[int, ...], ...]:
    sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", axes)}
    parts: dict[str, list[tuple[int, bool]]] = {name: [(size, False)] for name, size in sizes.items()}
    for name, before, size in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", chosen):
        if size:
            split = [(int(before), False), (int(size), True), (sizes[name] // int(before) // int(size), False)]
            kept = parts[name] if len(parts[name]) > 1 else split
            parts[name] = [(n, a or b) for (n, a), (_, b) in zip(kept, split, strict=True)]
        else:
            parts[name] = [(sizes[name], True)]
    flat = [part for name in sizes for part in parts[name]]
    ids = _device_order(devices) if devices else np.arange(prod(sizes.values()))
    order = [i for i, (_, inside) in enumerate(flat) if not inside] + [
        i for i, (_, inside) in enumerate(flat) if inside
    ]
    group = prod(size for size, inside in flat if inside)
    return _rows(ids.reshape([size for size, _ in flat]).transpose(order).reshape(-1, group))


def _device_order(text: str) -> np.ndarray:
    """Devices in the order of a mesh: `[2,4]T(1,0)`, which is 0, 1, 2 … in [2,4], transposed; or a list."""
    iota = re.fullmatch(r"\[([\d,]+)\](?:<=\[[\d,]+\])?(?:T\(([\d,]+)\))?", text)
    if iota is None and not re.fullmatch(r"[\d,]+", text):
        raise TextError(f"device order of a mesh that cannot be read: {text[:80]!r}")
    return _iota(iota[1], iota[2]) if iota else np.asarray(_ints(text))


def collectives(
    module: Module, walk: Walk, slices: Sequence[int] = (), torus: Torus | None = None
) -> tuple[Collective, ...]:
    """Every collective that a run of the program executes, in the order of the text.

    `slices[p]` is the slice of partition p; empty where one slice holds all, or where the compiler separated them.
    `torus`: where the partitions of a slice run; None where a switch joins them. Raises TextError for groups and
    transfers that cannot be read.
    """
    begun = {_channel(e.instruction) for e in walk.executed if _starts_chain(e)}
    found = []
    for executed in walk.executed:
        instruction = executed.instruction
        chained = '"async_collective_fusion_config"' in instruction.attributes
        if chained and _channel(instruction) in begun and not _starts_chain(executed):
            continue
        if instruction.opcode == "send" and "_xla_megascale_transfer_type" in instruction.attributes:
            found.append(_between_slices(executed))
        elif _kind(executed):
            found.append(_within_program(executed, module.partitions, slices, chained, torus))
    return tuple(found)


def _channel(instruction: Instruction) -> str:
    return instruction.attribute("channel_id") or instruction.name


def _kind(executed: Executed) -> str | None:
    opcode = executed.instruction.opcode.removesuffix("-start")
    kind = _SAME.get(opcode, opcode)
    if kind == "all-reduce" and executed.computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    return kind if kind in KINDS else None


def _starts_chain(executed: Executed) -> bool:
    if '"async_collective_fusion_config"' not in executed.instruction.attributes:
        return False
    users = executed.computation.users.get(executed.instruction.name, ())
    return any(user.attribute("custom_call_target") == "AsyncCollectiveStart" for user in users)


def _within_program(
    executed: Executed, partitions: int, slices: Sequence[int], chained: bool, torus: Torus | None
) -> Collective:
    instruction, kind = executed.instruction, _kind(executed)
    assert kind is not None
    pairs = _PAIRS.search(instruction.attributes)
    if pairs:
        groups = tuple(_ints(pair) for pair in re.findall(r"\{([\d,]+)\}", pairs[1]))
        size = 2 if any(len(set(pair)) > 1 for pair in groups) else 1
    else:
        groups = groups_of(instruction.attributes, partitions)
        size = max(len(group) for group in groups)
    crossing = bool(slices) and any(len({slices[p] for p in group}) > 1 for group in groups)
    started = instruction.opcode.endswith("-start") and '"is_sync":true' not in instruction.attributes
    span = _span(torus, groups, kind == "collective-permute" and size == 2)
    return _collective(executed, kind, size, chained or executed.asynchronous or started, crossing, span)


def _span(torus: Torus | None, groups: Sequence[Sequence[int]], pairs: bool) -> Span:
    if torus is None:
        return NEXT
    if pairs:
        return Span(1.0, max(1, *(torus.apart(*pair) for pair in groups)), 0.5)
    return min((torus.span(group) for group in groups), key=lambda span: (span.links, -span.hops))


def _between_slices(executed: Executed) -> Collective:
    attributes = executed.instruction.attributes
    transfer = re.search(r'_xla_megascale_transfer_type="?(\w+)', attributes)
    target = re.search(r'_xla_megascale_target="?\{\{?([\d,>-]+)\}', attributes)
    if transfer is None or target is None or transfer[1] not in MEGASCALE:
        raise TextError(f"a transfer between slices that cannot be read: {executed.instruction.name}")
    kind = MEGASCALE[transfer[1]]
    return _collective(executed, kind, len(re.split(r",|->", target[1])), True, True, NEXT)


def _collective(executed: Executed, kind: str, group: int, asynchronous: bool, across: bool, span: Span) -> Collective:
    instruction = executed.instruction
    operands = [shape for shapes in executed.computation.operand_shapes(instruction) for shape in shapes]
    arrays = [shape for shape in operands if shape.dtype != "token"]
    payload = sum(shape.bytes for shape in arrays)
    return Collective(
        instruction.name,
        kind,
        "+".join(dict.fromkeys(shape.dtype for shape in arrays)),
        payload,
        group,
        link_bytes(kind, payload, group),
        executed.times,
        asynchronous,
        across,
        span,
    )


def summary(found: Iterable[Collective]) -> Summary:
    """Totals of one run of the program, bytes sent by one device."""
    found = tuple(found)
    by_kind = {}
    for kind in KINDS:
        of_kind = [c for c in found if c.kind == kind]
        if of_kind:
            by_kind[kind] = Traffic(sum(c.times for c in of_kind), sum(c.total_bytes for c in of_kind))

    def total(across: bool, only_asynchronous: bool) -> int:
        chosen = (c for c in found if c.across_slices == across and (c.asynchronous or not only_asynchronous))
        return sum(c.total_bytes for c in chosen)

    return Summary(by_kind, total(False, False), total(False, True), total(True, False), total(True, True))
