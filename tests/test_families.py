"""Every family against transformers: rows, prefill and decoding, and log-probs as losses take them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from made_families import PAD, PROMPT, assert_close, continued, each, loaded, paired, scores

from jaxalign.data.groups import RolledGroups
from jaxalign.training.logps import token_logps
from jaxalign.training.rows import RowShape, pack


@each
def test_rows_score_as_in_transformers(name):
    model, params, golden = loaded(name)
    found = scores(model, params, golden["tokens"])
    assert golden["logits"].std() > 0.5
    assert_close(found, golden["logits"])
    chosen = golden["tokens"][:, 1:, None]
    assert_close(jnp.take_along_axis(jax.nn.log_softmax(found[:, :-1]), chosen, -1)[..., 0], golden["logps"])


@each
def test_prefill_and_decoding_score_as_in_transformers_behind_padding_too(name):
    model, params, golden = loaded(name)
    found = continued(model, params, golden["tokens"], jnp.array([0, PAD]))
    assert_close(found[0], golden["logits"][0, PROMPT - 1 :])
    assert_close(found[1], golden["logits"][1, PROMPT - 1 - PAD : -PAD])


@each
def test_log_probs_of_packed_pairs_are_those_of_transformers(name):
    """Both rows as responses to one another's first tokens: trunk, branch, window and cap on the way losses take."""
    model, params, golden = loaded(name)
    tokens, logps = golden["tokens"], golden["logps"]
    batch = pack(RolledGroups(*paired(tokens)), np.arange(2), RowShape(row=64, scored=48, response=24), {})
    found = jax.jit(partial(token_logps, model))(params, batch.rows, batch.mask)
    length = tokens.shape[1] - PROMPT
    assert_close(found[:, 0, :length], logps[:, PROMPT - 1 :])
    other = np.concatenate([tokens[:, :PROMPT], tokens[::-1, PROMPT:]], axis=1)
    alone = jax.nn.log_softmax(scores(model, params, other))[:, PROMPT - 1 : -1]
    assert_close(found[:, 1, :length], jnp.take_along_axis(alone, other[:, PROMPT:, None], -1)[..., 0])
