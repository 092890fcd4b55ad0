"""What a step costs: an estimate of its time on a chip that is not here, from the work of the compiled program.

Time of a step, seconds:

    operation   max(cycles / clock, FLOPs / peak, HBM bytes / HBM bandwidth)
    kernel      max(FLOPs given by its op / (peak · share), HBM bytes / HBM bandwidth)
    compute     max(Σ operations + Σ kernels, all HBM bytes / HBM bandwidth)
    step        max(compute, asynchronous ICI, asynchronous DCN) + synchronous ICI + synchronous DCN

It assumes that nothing slows another thing down: links without contention, asynchronous collectives that hide behind
any computation, vector units that keep up with memory, copies that overlap, no stalls by host or input, bytes that
outweigh latencies. So it bounds the compiler's schedule from below; a measured step replaces it.

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
    """A step's estimated time and its parts, seconds of one device."""

    step_seconds: float
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
    tokens_per_s_per_chip: float
    mfu: float
    """model FLOPs / (chips · peak · step)"""
    hfu: float
    """FLOPs as compiled, kernels' included, / (chips · peak · step)"""
    unpriced_kernels: tuple[str, ...]
    """kernels of which no op says anything: counted by their bytes"""


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
    peak, bandwidth = chip.device_flops, chip.device_hbm_bandwidth
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
    compute = max(operations + kernels, memory)
    # (across slices, asynchronous) → seconds of one device
    seconds = {(False, False): 0.0, (False, True): 0.0, (True, False): 0.0, (True, True): 0.0}
    for collective in sent:
        if collective.across_slices:
            over = chip.device_dcn_bandwidth
        elif collective.kind == "collective-permute":
            over = chip.neighbour_bandwidth
        else:
            over = topology.bandwidth(chip, collective.group)
        seconds[collective.across_slices, collective.asynchronous] += collective.total_bytes / over
    # hidden behind the computation as far as it is long enough: each kind of link by itself, both at once
    hidden = max(compute, seconds[False, True], seconds[True, True])
    step = hidden + seconds[False, False] + seconds[True, False]
    return Estimate(
        step,
        compute,
        memory,
        kernels,
        seconds[False, False],
        seconds[False, True],
        seconds[True, False],
        seconds[True, True],
        tokens / step / topology.chips,
        # what the model asks is of all devices, what was compiled of one: a chip's peak there, a device's here
        model_flops / (topology.chips * chip.bf16_flops * step),
        compiled_flops(done, costs) / (peak * step),
        tuple(dict.fromkeys(k.name for k in done.kernels if k.name not in costs)),
    )


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
