"""What every implementation of `linear_logp` must satisfy: the shared base of its tests."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.ops.linear_logp import OUTPUTS, LinearStats
from jaxalign.ops.linear_logp.differentiable import HERE, Run, stats
from jaxalign.ops.linear_logp.fused import Task
from jaxalign.ops.linear_logp.logits import Logits
from jaxalign.ops.linear_logp.problem import Engine


@dataclass(frozen=True)
class Case:
    """One problem, drawn from a seed. `peak` nats are added to the target's logit, from 0 for the first token up."""

    n: int
    d: int
    v: int
    dtype: str = "float32"
    bias: bool = False
    softcap: float | None = None
    scale: float = 1.0
    temperature: float = 1.0
    vocabulary: int | None = None
    peak: float = 0.0
    ignored: bool = True
    seed: int = 0

    @property
    def logits(self) -> Logits:
        return Logits(self.scale, self.softcap, self.temperature)

    def arrays(self) -> tuple[jax.Array, jax.Array, jax.Array | None, jax.Array]:
        """Hidden, head, bias and targets; scores of about unit variance, and of `peak` at the target."""
        r = np.random.default_rng(self.seed)
        head = r.normal(size=(self.v, self.d))
        targets = r.integers(0, self.vocabulary or self.v, self.n)
        hidden = r.normal(size=(self.n, self.d)) / np.sqrt(self.d)
        own = head[targets]
        hidden += np.linspace(0, self.peak, self.n)[:, None] * own / (own**2).sum(-1, keepdims=True)
        if self.ignored:
            targets[:: max(2, self.n // 3)] = -1
        bias = jnp.asarray(r.normal(size=self.v), jnp.float32) if self.bias else None
        return jnp.asarray(hidden, self.dtype), jnp.asarray(head, self.dtype), bias, jnp.asarray(targets, jnp.int32)


@dataclass(frozen=True)
class Truth:
    """Statistics and gradients in fp64 from the very same inputs, by the formulas written out."""

    stats: dict[str, np.ndarray]
    lead: np.ndarray
    """nats of the target's logit above the largest other one"""
    hidden: np.ndarray
    head: np.ndarray
    bias: np.ndarray


def truth(case: Case, weights: np.ndarray) -> Truth:
    """`weights` [n] is the gradient of the log-probs."""
    hidden, head, bias, targets = (None if a is None else np.asarray(a, np.float64) for a in case.arrays())
    live, y, n = targets >= 0, np.maximum(targets, 0).astype(int), np.arange(case.n)
    scores = hidden @ head.T + (0 if bias is None else bias)
    inner = scores * case.scale
    if case.softcap is not None:
        z, slope = case.softcap * np.tanh(inner / case.softcap), 1 - np.tanh(inner / case.softcap) ** 2
    else:
        z, slope = inner, np.ones_like(inner)
    z, slope = z / case.temperature, slope * case.scale / case.temperature
    z[:, case.vocabulary or case.v :] = -np.inf
    top = z.max(-1, keepdims=True)
    lse = (top + np.log(np.exp(z - top).sum(-1, keepdims=True)))[:, 0]
    p = np.exp(z - lse[:, None])
    log_p = np.where(p > 0, z - lse[:, None], 0.0)
    others = z.copy()
    others[n, y] = -np.inf
    lead = z[n, y] - others.max(-1)
    made = {
        "logp": z[n, y] - lse,
        "lse": lse,
        "entropy": -(p * log_p).sum(-1),
        "log_sum_p2": np.log((p * p).sum(-1)),
        "match": lead >= 0,
    }
    made = {name: np.where(live, value, 0) for name, value in made.items()}
    dz = -p * weights[:, None]
    dz[n, y] = weights * (p.sum(-1) - p[n, y])
    ds = np.where(live[:, None], dz * slope, 0.0)
    return Truth(made, lead, ds @ head, ds.T @ hidden, ds.sum(0))


def weights_of(case: Case) -> np.ndarray:
    return np.random.default_rng(case.seed + 1).normal(size=case.n).astype(np.float32)


def outcome(engine: Engine, case: Case, run: Run = HERE) -> tuple[LinearStats, Any]:
    """All statistics, and the gradients of the weighted log-probs with respect to hidden, head and bias."""
    hidden, head, bias, targets = case.arrays()
    weights = jnp.asarray(weights_of(case))

    def loss(hidden: jax.Array, head: jax.Array, bias: jax.Array | None) -> jax.Array:
        made = stats(run, Task(engine, case.logits, ("logp",), case.vocabulary), hidden, head, bias, targets).logp
        assert made is not None
        return (weights * made).sum()

    every = Task(engine, case.logits, OUTPUTS, case.vocabulary)
    got = jax.jit(lambda h, w, b: stats(run, every, h, w, b, targets))(hidden, head, bias)
    wrt = (0, 1) if bias is None else (0, 1, 2)
    return got, jax.jit(jax.grad(loss, wrt))(hidden, head, bias)


def assert_true(engine: Engine, case: Case, atol: float, gradient_rtol: float, run: Run = HERE) -> None:
    """Values within `atol` of fp64; each gradient within `gradient_rtol` of its largest entry.

    NumPy compares: XLA's maximum on CPU can drop a NaN.
    """
    expected = truth(case, weights_of(case))
    got, gradients = outcome(engine, case, run)
    for name in ("logp", "lse", "entropy", "log_sum_p2"):
        np.testing.assert_allclose(
            np.asarray(getattr(got, name)), expected.stats[name], atol=atol, rtol=0, err_msg=name
        )
    if case.dtype == "float32":
        # logits that a soft-cap brings together are equal in fp32
        clear = np.abs(expected.lead) > atol
        np.testing.assert_array_equal(np.asarray(got.match)[clear], expected.stats["match"][clear])
    # near the soft-cap its slope, 1 − tanh², is the difference of nearly equal numbers: off by a few roundings of 6e-8
    hidden, head = (np.abs(np.asarray(a, np.float64)).max() for a in case.arrays()[:2])
    slope = 0.0 if case.softcap is None else 5e-7 * np.abs(weights_of(case)).sum() * max(hidden, head, 1.0)
    for name, value in zip(("hidden", "head", "bias"), gradients, strict=False):
        wanted = getattr(expected, name)
        assert value.dtype == (jnp.float32 if name == "bias" else case.dtype)
        near = gradient_rtol * max(np.abs(wanted).max(), 1e-3) + slope
        np.testing.assert_allclose(np.asarray(value, np.float64), wanted, atol=near, rtol=0, err_msg=f"d{name}")
