"""`linear_logp` and `linear_stats`: log-probs of tokens from hidden states and a head, without holding [n v].

    z = softcap · tanh(scale · (<h, W_v> + bias_v) / softcap) / temperature,       logp = z_y − log Σ_v exp z_v

accumulated in fp32 from bf16 or fp32 inputs. Which implementation runs is data: `tuning.json` holds, by platform, how
many bytes of fp32 logits are faster held than made again, how many of larger ones are kept for the backward pass, and
the block sizes. On GPUs that is XLA's chunked pass, in chunks that leave its products large for cuBLAS; the kernel for
Hopper, `pallas_gpu`, is there by name and becomes the choice with a gain measured on a device.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxalign.ops.linear_logp import portable
from jaxalign.ops.linear_logp.blocks import generation_of
from jaxalign.ops.linear_logp.differentiable import HERE, stats
from jaxalign.ops.linear_logp.fused import Task
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.problem import Engine
from jaxalign.ops.linear_logp.reference import full_stats
from jaxalign.ops.linear_logp.sharded import OnMesh
from jaxalign.ops.linear_logp.stats import OUTPUTS, LinearStats
from jaxalign.ops.linear_logp.tuning import tuning

IMPLEMENTATIONS = ("auto", "full", "chunked", "pallas_tpu", "pallas_gpu")


def linear_logp(
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    targets: Int[Array, " n"],
    *,
    bias: Float[Array, " v"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    vocabulary: int | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
    layout: OnMesh | None = None,
) -> Float[Array, " n"]:
    """Log-prob (nats, fp32) of each target under softmax(z); 0 without gradient where the target is negative.

    Differentiable in hidden, head and bias; gradients have the dtypes of what they are gradients of. Rows of the head
    from `vocabulary` on pad the table and are no tokens. A target beyond the vocabulary gives NaN. `implementation` is
    "auto", "full" (holds [n v]), "chunked" (XLA, `chunk` rows of the head at a time), "pallas_tpu" or "pallas_gpu"
    (kernels); the value does not depend on it beyond rounding. `layout` splits tokens and vocabulary over a mesh.
    Raises ValueError for shapes, dtypes or options that do not fit.
    """
    made = linear_stats(
        hidden,
        head,
        targets,
        outputs=("logp",),
        bias=bias,
        softcap=softcap,
        scale=scale,
        temperature=temperature,
        vocabulary=vocabulary,
        implementation=implementation,
        chunk=chunk,
        layout=layout,
    )
    assert made.logp is not None
    return made.logp


def linear_stats(
    hidden: Float[Array, "n d"],
    head: Float[Array, "v d"],
    targets: Int[Array, " n"],
    *,
    outputs: Sequence[str] = OUTPUTS,
    bias: Float[Array, " v"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    temperature: float = 1.0,
    vocabulary: int | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
    layout: OnMesh | None = None,
) -> LinearStats:
    """The statistics named in `outputs` in one pass, as `linear_logp`; what is not named is None and costs nothing.

    Entropy and log Σ p² are differentiable too; their gradient makes the logits a second time for the hidden states,
    in XLA's chunked pass on every platform (the kernels for TPU make the gradient of the log-prob only).
    """
    problems = list(_problems(hidden, head, bias, outputs, vocabulary, implementation, layout))
    if problems:
        raise ValueError("linear_logp: " + "; ".join(problems))
    logits = Logits(scale, softcap, temperature)
    vocabulary = None if vocabulary == head.shape[0] else vocabulary
    names = tuple(name for name in OUTPUTS if name in outputs)
    if implementation == "full" or (implementation == "auto" and layout is None and _holding_is_faster(hidden, head)):
        short = None if bias is None else bias[:vocabulary]
        return full_stats(hidden, head[:vocabulary], short, targets, logits, names)
    engine = _engine(implementation, chunk, layout)
    if layout is None:
        return stats(HERE, Task(engine, logits, names, vocabulary), hidden, head, bias, targets)
    if missing := layout.missing_rows(head.shape[0]):
        vocabulary = vocabulary or head.shape[0]
        head = jnp.pad(head, ((0, missing), (0, 0)))
        bias = None if bias is None else jnp.pad(bias, (0, missing))
    return stats(layout, Task(engine, logits, names, vocabulary), hidden, head, bias, targets)


def _engine(implementation: str, chunk: int | None, layout: OnMesh | None) -> Engine:
    # XLA partitions its own loops over the devices of a mesh, but no Mosaic kernel: those need the layout
    alone = layout is not None or jax.device_count() == 1
    device = jax.devices()[0] if layout is None else layout.device
    if implementation == "pallas_tpu" or (implementation == "auto" and device.platform == "tpu" and alone):
        # imported here: Pallas takes a while to load, and nothing else needs it
        from jaxalign.ops.linear_logp import pallas_tpu

        return pallas_tpu.engine(generation_of(device))
    platform = _platform(device)
    chunk = chunk or tuning()["chunk"][platform]
    if implementation == "pallas_gpu":
        from jaxalign.ops.linear_logp import pallas_gpu

        return pallas_gpu.engine(chunk)
    # who names the chunks wants their memory and no more; on a mesh each device would keep as much
    keeps = implementation == "auto" and layout is None
    return portable.engine(chunk, tuning()["kept_logits_bytes"][platform] if keeps else 0)


def _problems(
    hidden: Array,
    head: Array,
    bias: Array | None,
    outputs: Sequence[str],
    vocabulary: int | None,
    implementation: str,
    layout: OnMesh | None,
) -> Iterator[str]:
    if hidden.dtype != head.dtype:
        yield f"hidden is {hidden.dtype} and head {head.dtype}: cast one of them, products are of equal dtypes"
    if hidden.dtype not in (jnp.float32, jnp.bfloat16):
        yield f"hidden and head must be float32 or bfloat16, got {hidden.dtype}"
    if hidden.shape[1:] != head.shape[1:]:
        yield f"hidden {hidden.shape} and head {head.shape} must share their last dimension"
    if bias is not None and bias.shape != head.shape[:1]:
        yield f"bias {bias.shape} must have one entry for each of the head's {head.shape[0]} rows"
    if unknown := [name for name in outputs if name not in OUTPUTS]:
        yield f"unknown outputs {unknown}, choose from {list(OUTPUTS)}"
    if vocabulary is not None and not 0 < vocabulary <= head.shape[0]:
        yield f"vocabulary {vocabulary} must lie in [1, {head.shape[0]}]"
    if implementation not in IMPLEMENTATIONS:
        yield f"unknown implementation {implementation!r}, choose from {list(IMPLEMENTATIONS)}"
    if layout is not None:
        yield from layout.problems(hidden, head)


def _platform(device: jax.Device) -> str:
    return {"cuda": "gpu", "rocm": "gpu"}.get(device.platform, device.platform)


def _holding_is_faster(hidden: Array, head: Array) -> bool:
    return 4 * hidden.shape[0] * head.shape[0] <= tuning()["full_logits_bytes"][_platform(jax.devices()[0])]
