"""Losses against TRL's own code: values and gradients of random log-probs, from a file that its trainers have made."""

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.losses.alpha_po import AlphaPO
from jaxalign.losses.anchored import APOAlone, APODown, APOZero
from jaxalign.losses.aot import AOT, AOTUnpaired
from jaxalign.losses.bco_pairs import BCOPairs
from jaxalign.losses.composed import Composed
from jaxalign.losses.cpo import CPO
from jaxalign.losses.discopop import DiscoPOP
from jaxalign.losses.dpo import DPO
from jaxalign.losses.exo import EXO
from jaxalign.losses.f_dpo import FDPO
from jaxalign.losses.hinge import HingePO
from jaxalign.losses.ipo import IPO, TokenMeanIPO
from jaxalign.losses.kto import KTO
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.likelihood import Likelihood, TokenLikelihood
from jaxalign.losses.nca import NCA
from jaxalign.losses.orpo import ORPO
from jaxalign.losses.parts.divergences import AlphaDivergence, ForwardKL, JensenShannon
from jaxalign.losses.parts.links import Hinge, Logistic, Squared
from jaxalign.losses.parts.scores import Logp, LogRatio, LongTail, TokenMean
from jaxalign.losses.parts.weights import OnPolicy
from jaxalign.losses.robust_dpo import RobustDPO
from jaxalign.losses.simpo import SimPO
from jaxalign.losses.sppo import SPPOHard
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.token_mean_dpo import TokenMeanDPO
from jaxalign.losses.wpo import WPO
from jaxalign.types import GroupLogps, Labels

CLOSE = {"rtol": 1e-5, "atol": 1e-7}
"""Two fp32 computations of a few dozen numbers."""

BY_TOKEN = {
    "sigmoid": DPO(0.3),
    "hinge": HingePO(0.3),
    "ipo": TokenMeanIPO(0.5),
    "exo_pair": EXO(0.3, 1e-3),
    "nca_pair": NCA(0.3),
    "robust": RobustDPO(0.3, 0.2),
    "bco_pair": BCOPairs(0.3),
    "sppo_hard": SPPOHard(1 / 0.3),
    "aot": AOT(0.3, 0.1),
    "aot_unpaired": AOTUnpaired(0.3, 0.1),
    "apo_zero": APOZero(0.3),
    "apo_down": APODown(0.3),
    "discopop": DiscoPOP(0.3, 0.05),
    "sigmoid_norm": TokenMeanDPO(0.3),
    "sft": TokenLikelihood(),
    "forward_kl": FDPO(ForwardKL(), 0.3),
    "js_divergence": FDPO(JensenShannon(), 0.3),
    "alpha_divergence": FDPO(AlphaDivergence(0.5), 0.3),
    "hinge_js": Composed(JensenShannon(), Hinge(0.3)),
    "sigmoid_norm_forward_kl": Composed(TokenMean(ForwardKL()), Logistic(0.3)),
    "wpo": WPO(0.3, most=None),
    "ipo_weighted": Composed(TokenMean(LogRatio()), Squared(0.5), OnPolicy()),
    "ld_alpha": LDDPO(0.3, 0.4),
    "ld_alpha_ipo": Composed(TokenMean(LongTail(0.4)), Squared(0.5)),
    "mixed": SumOf((DPO(0.3), BCOPairs(0.3)), (0.8, 0.2)),
}
ALONE = {"kto": KTO(0.3, 1.0, 1.5), "apo_zero_unpaired": APOAlone(0.3)}
ONLINE = {"sigmoid": DPO(0.3), "ipo": IPO(0.5)}
"""Sums over tokens, where DPOTrainer's `ipo` has means."""
BY_ANSWER = {
    "simpo": SimPO(2.0, 0.5),
    "alpha": AlphaPO(0.25, 2.0, 0.5),
    "ipo": Composed(TokenMean(Logp()), Squared(2.0)),
    "sigmoid": CPO(2.0, alpha=0.0),
    "hinge": Composed(Logp(), Hinge(2.0)),
    "odds_ratio": ORPO(0.1),
}


@cache
def golden() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "goldens" / "trl_losses.json").read_text())


def pairs(rows: list) -> jax.Array:
    """The chosen answers, then the rejected ones, as pairs."""
    return jnp.stack(jnp.split(jnp.asarray(np.float32(rows)), 2), axis=1)


def seen() -> GroupLogps:
    made = golden()
    tokens, reference, lengths = (pairs(made[name]) for name in ("tokens", "reference", "lengths"))
    count = len(tokens)
    return GroupLogps(
        tokens=tokens,
        mask=jnp.arange(tokens.shape[-1], dtype=jnp.float32)[None, None] < lengths[..., None],
        last=None,
        anchor=reference.sum(-1),
        labels=Labels.of_one(jnp.ones(count), jnp.full((count, 2), 0.5)),
        log_sum_p2=pairs(made["log_sum_sq"]),
        anchor_tokens=reference,
        weight=jnp.ones(count),
    )


def test_every_case_is_compared():
    assert set(golden()["by_token"]) == set(BY_TOKEN)
    assert set(golden()["by_answer"]) == set(BY_ANSWER)
    assert set(golden()["alone"]) == set(ALONE)
    assert set(golden()["online"]) == set(ONLINE)
    assert golden()["trl"] == "1.16.0"


@pytest.mark.parametrize("name", BY_TOKEN)
def test_losses_of_the_dpo_trainer(name):
    x, expected = seen(), golden()["by_token"][name]
    value, slopes = jax.jit(
        jax.value_and_grad(lambda tokens: BY_TOKEN[name](dataclasses.replace(x, tokens=tokens)).mean())
    )(x.tokens)
    np.testing.assert_allclose(value, expected["loss"], **CLOSE)
    # TRL's sums are over all columns, since its own padding is 0 whatever the policy
    np.testing.assert_allclose(slopes, jnp.where(x.mask, pairs(expected["gradient"]), 0.0), **CLOSE)


@pytest.mark.parametrize("name", ONLINE)
def test_losses_of_the_online_dpo_trainer(name):
    """First and second answers to a prompt: labels say which has the higher reward."""
    x, made = seen(), golden()
    first, second = np.split(np.float32(made["rewards"]), 2)
    assert set(first >= second) == {True, False}
    labels = Labels.of_one(jnp.asarray(np.float32(first >= second)), jnp.full((len(first), 2), 0.5))
    mean = lambda tokens: ONLINE[name](dataclasses.replace(x, tokens=tokens, labels=labels)).mean()  # noqa: E731
    value, slopes = jax.jit(jax.value_and_grad(mean))(x.tokens)
    np.testing.assert_allclose(value, made["online"][name]["loss"], **CLOSE)
    np.testing.assert_allclose(slopes, jnp.where(x.mask, pairs(made["online"][name]["gradient"]), 0.0), **CLOSE)


@pytest.mark.parametrize("name", ALONE)
def test_losses_of_the_kto_trainer(name):
    """Good and bad answers in turn; TRL weighs the bad ones in both of its losses."""
    made, expected = golden(), golden()["alone"][name]
    tokens, reference = (jnp.asarray(np.float32(made[column]))[:, None] for column in ("tokens", "reference"))
    lengths = jnp.asarray(np.float32(made["lengths"]))[:, None, None]
    good = jnp.arange(len(tokens), dtype=jnp.float32) % 2
    x = GroupLogps(
        tokens=tokens,
        mask=jnp.arange(tokens.shape[-1], dtype=jnp.float32)[None, None] < lengths,
        last=None,
        anchor=reference.sum(-1),
        labels=Labels.of_one(good, jnp.full((len(tokens), 1), 0.5)),
        stray=jnp.asarray(np.float32(made["stray"])),
        weight=jnp.ones(len(tokens)),
    )
    counts = 1.0 if name == "kto" else 1 + 0.5 * (1 - good)
    mean = lambda tokens: (ALONE[name](dataclasses.replace(x, tokens=tokens)) * counts).mean()  # noqa: E731
    value, slopes = jax.jit(jax.value_and_grad(mean))(x.tokens)
    np.testing.assert_allclose(value, expected["loss"], **CLOSE)
    masked = jnp.where(x.mask[:, 0], jnp.asarray(np.float32(expected["gradient"])), 0.0)
    np.testing.assert_allclose(slopes[:, 0], masked, **CLOSE)


@pytest.mark.parametrize("name", BY_ANSWER)
def test_losses_of_the_cpo_and_orpo_trainers(name):
    """Of sums, or of means by the token; they leave the likelihood to the trainer, and here it is taken off again."""
    x, expected, loss = seen(), golden()["by_answer"][name], BY_ANSWER[name]
    by_token = name not in {"sigmoid", "hinge"}
    extra = Likelihood() if name == "odds_ratio" else None

    def mean(tokens: jax.Array) -> jax.Array:
        at = dataclasses.replace(x, tokens=tokens)
        return (loss(at) - (extra(at) if extra else 0.0)).mean()

    value, slopes = jax.jit(jax.value_and_grad(mean))(x.tokens)
    of_answer = slopes[..., 0] * (x.lengths.astype(jnp.float32) if by_token else 1.0)
    np.testing.assert_allclose(value, expected["loss"], **CLOSE)
    np.testing.assert_allclose(of_answer, pairs(expected["gradient"]), **CLOSE)
