"""`linear_logp` and `linear_stats`: log-probs of tokens from hidden states and a head, without holding [n v].

    z = softcap · tanh(scale · (<h, W_v> + bias_v) / softcap) / temperature,       logp = z_y − log Σ_v exp z_v

accumulated in fp32 from bf16 or fp32 inputs. Which implementation runs is data: `tuning.json` holds, by platform, how
many bytes of fp32 logits are faster held than made again, how many of larger ones are kept for the backward pass, and
the block sizes. On GPUs that is XLA's chunked pass, in chunks that leave its products large for cuBLAS; the kernel for
Hopper, `pallas_gpu`, is there by name and becomes the choice with a gain measured on a device.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.mesh.flags import platform_of
from jaxalign.ops.linear_logp import portable
from jaxalign.ops.linear_logp.blocks import generation_of
from jaxalign.ops.linear_logp.costs import holds_all
from jaxalign.ops.linear_logp.differentiable import HERE, stats
from jaxalign.ops.linear_logp.fused import Task
from jaxalign.ops.linear_logp.options import LogpOptions
from jaxalign.ops.linear_logp.problem import Engine
from jaxalign.ops.linear_logp.reference import full_stats
from jaxalign.ops.linear_logp.stats import OUTPUTS, LinearStats
from jaxalign.ops.linear_logp.tuning import tuning

DEFAULT = LogpOptions()


def linear_logp(
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    targets: Int[Array, " n"],
    options: LogpOptions = DEFAULT,
    *,
    bias: Float[Array, " v"] | None = None,
) -> Float[Array, " n"]:
    """Log-prob (nats, fp32) of each target under softmax(z); 0 without gradient where the target is negative.

    Differentiable in hidden, head and bias; gradients have the dtypes of what they are gradients of. A target beyond
    the vocabulary gives NaN. Raises ValueError for shapes, dtypes or options that do not fit.
    """
    made = linear_stats(hidden, head, targets, options, bias=bias, outputs=("logp",))
    assert made.logp is not None
    return made.logp


def linear_stats(
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    targets: Int[Array, " n"],
    options: LogpOptions = DEFAULT,
    *,
    bias: Float[Array, " v"] | None = None,
    outputs: Sequence[str] = OUTPUTS,
) -> LinearStats:
    """The statistics named in `outputs` in one pass, as `linear_logp`; what is not named is None and costs nothing.

    Entropy and log Σ p² are differentiable too; their gradient makes the logits a second time for the hidden states,
    in XLA's chunked pass on every platform (the kernels for TPU make the gradient of the log-prob only).
    """
    problems = list(options.problems(hidden, head, bias))
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        problems.append(f"unknown outputs {unknown}, choose from {list(OUTPUTS)}")
    if problems:
        raise ValueError("linear_logp: " + "; ".join(problems))
    logits, layout = options.logits, options.layout
    # a table without padding needs no limit, and the passes none of its masking
    vocabulary = None if options.vocabulary == head.shape[0] else options.vocabulary
    names = tuple(name for name in OUTPUTS if name in outputs)
    if _holds_all(hidden, head, options):
        short = None if bias is None else bias[:vocabulary]
        return full_stats(hidden, head[:vocabulary], short, targets, logits, names)
    engine = _engine(options)
    if layout is None:
        return stats(HERE, Task(engine, logits, names, vocabulary), hidden, head, bias, targets)
    if missing := layout.missing_rows(head.shape[0]):
        vocabulary = vocabulary or head.shape[0]
        head = jnp.pad(head, ((0, missing), (0, 0)))
        bias = None if bias is None else jnp.pad(bias, (0, missing))
    return stats(layout, Task(engine, logits, names, vocabulary), hidden, head, bias, targets)


def _engine(options: LogpOptions) -> Engine:
    layout, auto = options.layout, options.implementation == "auto"
    # XLA partitions its own loops over the devices of a mesh, but no Mosaic kernel: those need the layout
    alone = layout is not None or jax.device_count() == 1
    device = jax.devices()[0] if layout is None else layout.device
    if options.implementation == "pallas_tpu" or (auto and device.platform == "tpu" and alone):
        # imported here: Pallas takes a while to load, and nothing else needs it
        from jaxalign.ops.linear_logp import pallas_tpu

        return pallas_tpu.engine(generation_of(device))
    platform = platform_of(device)
    chunk = options.chunk or tuning()["chunk"][platform]
    if options.implementation == "pallas_gpu":
        from jaxalign.ops.linear_logp import pallas_gpu

        return pallas_gpu.engine(chunk)
    # who names the chunks wants their memory and no more; on a mesh each device would keep as much
    keeps = auto and layout is None
    return portable.engine(chunk, tuning()["kept_logits_bytes"][platform] if keeps else 0)


def _holds_all(hidden: Array, head: Array, options: LogpOptions) -> bool:
    if options.implementation != "auto" or options.layout is not None:
        return options.implementation == "full"
    return holds_all(platform_of(jax.devices()[0]), hidden.shape[0], head.shape[0])
