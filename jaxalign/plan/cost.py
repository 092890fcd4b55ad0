"""What a step costs: a range of its time on a chip that is not here, from the work of the compiled program.

Time of a step, seconds. Both ends are of the program as it was compiled; another program of the same step may do
better, or worse.

    bound       max(FLOPs / peak, HBM bytes / bandwidth, asynchronous links) + synchronous links, all at the published
                speeds: nothing waits for anything but what the program waits for
    expected    max(scheduled, FLOPs / (peak · reached))

    scheduled   max(compute, asynchronous links) + synchronous links, links and hops as they have been measured
    compute     max(Σ operations + Σ kernels, HBM bytes / bandwidth)
    operation   max(cycles / clock, FLOPs / peak, HBM bytes / bandwidth)
    kernel      max(FLOPs given by its op / (peak · share), HBM bytes / bandwidth)
    collective  max(hops · time of a hop, bytes sent / (links · bandwidth of a link))      ICI, by `torus`
                2 hops of an all-reduce; an all-to-all has crossing · operand on one link
                bytes sent / bandwidth                                                     DCN

`scheduled` assumes that nothing slows another thing down: links without contention, asynchronous collectives that hide
behind any computation, vector units that keep up with memory, no stalls by host or input. Steps that others have
published are slower than that, and `reached` is what is left of it: the median share of the peak that they report
(`chips.json`), by FLOPs of the model, without what they computed again. So a step of theirs is a little faster than
`expected`. A measured step replaces both.

Model FLOPs, and with them MFU, follow PaLM (Chowdhery et al. 2022, 2204.02311, appendix B) and Kaplan et al. (2020,
2001.08361, section 2.1): no recomputation, no lookup of embeddings.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum

from jaxalign.ops.costs import KernelCost
from jaxalign.plan.chips import Chip, Topology
from jaxalign.plan.collectives import Collective
from jaxalign.plan.work import DeviceWork


@dataclass(frozen=True)
class Estimate:
    """A step's estimated time and its parts, seconds of one device; parts are of `scheduled`."""

    bound_seconds: float
    """of the program at the published speeds"""
    step_seconds: float
    """expected"""
    scheduled_seconds: float
    """as the compiler has it, with links as they were measured"""
    compute_seconds: float
    """operations and kernels, one after the other"""
    memory_seconds: float
    """all HBM bytes at the published bandwidth; a floor of `compute_seconds`"""
    kernel_seconds: float
    """the part of `compute_seconds` in custom calls"""
    ici_seconds: float
    """synchronous collectives of a slice"""
    ici_hidden_seconds: float
    """asynchronous ones"""
    dcn_seconds: float
    dcn_hidden_seconds: float
    ici_hop_seconds: float
    """what synchronous collectives of a slice take for their hops and not for their bytes; a part of `ici_seconds`"""
    tokens_per_s_per_chip: float
    """expected, as the two shares that follow"""
    mfu: float
    """model FLOPs / (chips · peak · step)"""
    hfu: float
    """FLOPs as compiled, kernels' included, / (chips · peak · step)"""
    unpriced_kernels: tuple[str, ...]
    """kernels of which no op says anything: counted by their bytes"""

    @property
    def range(self) -> tuple[float, float]:
        """Bound and expected, seconds."""
        return self.bound_seconds, self.step_seconds


@dataclass(frozen=True)
class Speed:
    """Of a link and of a hop."""

    link: float
    """bytes/s, in one direction"""
    hop: float
    """seconds"""


@dataclass(frozen=True)
class Sent:
    """Seconds of a program's collectives on one device."""

    ici: float
    ici_hidden: float
    dcn: float
    dcn_hidden: float
    hops: float
    """the part of `ici` that is no bytes'"""


UNKNOWN = KernelCost(flops=0.0, share=1.0)


def compiled_flops(done: DeviceWork, costs: Mapping[str, KernelCost]) -> float:
    """FLOPs of one device as compiled, with those of kernels that `costs` knows by name."""
    return float(done.flops + sum(k.times * costs.get(k.name, UNKNOWN).flops for k in done.kernels))


def estimate(
    done: DeviceWork,
    sent: Iterable[Collective],
    topology: Topology,
    chip: Chip,
    tokens: int,
    model_flops: float,
    costs: Mapping[str, KernelCost],
) -> Estimate:
    """The step time of the module's formula. Raises ValueError where `tokens` is not positive.

    tokens, model_flops: of all devices together in one run. costs: kernel's name → what its op says of it.
    """
    if tokens <= 0:
        raise ValueError(f"tokens must be positive, got {tokens}")
    peak, bandwidth, sent = chip.device_flops, chip.device_hbm_bandwidth, tuple(sent)
    kernels = fsum(
        k.times * max(known.flops / (peak * known.share), k.hbm_bytes / bandwidth)
        for k in done.kernels
        for known in (costs.get(k.name, UNKNOWN),)
    )
    operations = fsum(
        o.times * max(o.cycles / chip.clock, o.flops / peak, o.hbm_bytes / bandwidth)
        for o in done.operations
        if not o.asynchronous
    )
    # copies run beside the operations and cost none of their time, but no less than the bandwidth that all share
    memory = done.hbm_bytes / bandwidth
    compute, flops = max(operations + kernels, memory), compiled_flops(done, costs)
    best = sending(sent, chip, Speed(chip.link_bandwidth, chip.hop_seconds))
    seen = sending(sent, chip, Speed(chip.link_reached, chip.hop_reached))
    scheduled = _together(compute, seen)
    step = max(scheduled, flops / (peak * chip.reached))
    return Estimate(
        _together(max(flops / peak, memory), best),
        step,
        scheduled,
        compute,
        memory,
        kernels,
        seen.ici,
        seen.ici_hidden,
        seen.dcn,
        seen.dcn_hidden,
        seen.hops,
        tokens / step / topology.chips,
        # what the model asks is of all devices, what was compiled of one: a chip's peak there, a device's here
        model_flops / (topology.chips * chip.bf16_flops * step),
        flops / (peak * step),
        tuple(dict.fromkeys(k.name for k in done.kernels if k.name not in costs)),
    )


def sending(sent: Iterable[Collective], chip: Chip, speed: Speed) -> Sent:
    """What the collectives take at that speed of links and hops."""
    # (over the network, asynchronous) → seconds of one device
    seconds = {(False, False): 0.0, (False, True): 0.0, (True, False): 0.0, (True, True): 0.0}
    hops = 0.0
    for each in sent:
        # GPUs reach each other over a switch within a host, over the network beyond
        network = each.across_slices or (chip.torus_dims == 1 and each.group > chip.chips_per_host)
        if network:
            taken = each.link_bytes / chip.device_dcn_bandwidth
        else:
            of_bytes = link_seconds(each, chip, speed.link)
            taken = max(of_bytes, each.span.hops * speed.hop * (2 if each.kind == "all-reduce" else 1))
            hops += 0.0 if each.asynchronous else each.times * (taken - of_bytes)
        seconds[network, each.asynchronous] += each.times * taken
    return Sent(seconds[False, False], seconds[False, True], seconds[True, False], seconds[True, True], hops)


def link_seconds(sent: Collective, chip: Chip, link: float) -> float:
    """What the bytes of one execution take over links of a slice, `link` bytes/s each."""
    if sent.kind == "all-to-all":
        return sent.payload_bytes * sent.span.crossing * chip.devices / link
    # libtpu issues permutes in pairs around a ring, one in each direction
    links = min(2, chip.links) if sent.kind == "collective-permute" else min(sent.span.links, chip.links)
    return sent.link_bytes * chip.devices / (links * link)


def _together(compute: float, sent: Sent) -> float:
    # hidden behind the computation as far as it is long enough: each kind of link by itself, both at once
    return max(compute, sent.ici_hidden, sent.dcn_hidden) + sent.ici + sent.dcn


def model_flops(
    parameters: int, tokens: int, layers: int, heads: int, head_dim: int, length: int, passes: float, causal: bool
) -> float:
    """FLOPs that the model asks for: `passes` · (2 N · tokens + attention), recomputation not counted.

    parameters: N, those that multiply: the head counts (once, tied or not), the embedding table as a lookup does not.
    passes: 3 for a trained policy (forward 1, backward 2: 6 N a token), 1 for a reference's forward.
    Attention: 4 · layers · heads · head_dim · length a token and pass (at 3 passes PaLM's 12 L H Q T), half of it where
    `causal`. `length`: tokens of a row.
    """
    attention = 4 * layers * heads * head_dim * length / (2 if causal else 1)
    return passes * tokens * (2 * parameters + attention)
