"""Do weights, rotations and tokenizer belong together? What the model thinks of plain English.

A wrong layout of queries and keys, a wrong RoPE base or a wrong tokenizer raises no error: the model is only worse.
Three measurements, nats a token, on a paragraph written for this purpose (SmolLM2-135M in parentheses):

    plain      the paragraph                                              (right 3.9; rows of q and k permuted 5.5)
    repeated   the paragraph, behind the paragraph: attention finds it    (right 0.18; permuted 5.6)
    others     the paragraph with RoPE bases ten times larger and smaller (right base best by 0.07 and more)

The last is the most sensitive: another base costs a good model little on short texts, but no model does better with a
base it was not trained with. Where the first two are suspicious, permuted queries and keys are tried too.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import NotHere, Outcome, judged
from jaxalign.doctor.score import Pair, continuations
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.lora import LoRA
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.random_model import RandomModel
from jaxalign.progress import Progress
from jaxalign.types import Params

PASSAGE = (
    "On market days the square fills early. Farmers park their vans along the church wall, put up their tables "
    "and lay out what the week has given them: potatoes with the soil still on, bunches of carrots, eggs in grey "
    "boxes, and in autumn more apples than anyone could eat. By nine o'clock people are standing in line for "
    "bread. They talk about the weather, about the new bridge, and about whose children have moved to the city. "
    "An old man sells knives and sharpens the ones that people bring from home; the sound of his wheel can be "
    "heard at the other end of the street. Towards noon the prices begin to fall, and those who waited go home "
    "with full bags. At two the tables are folded, the vans drive away, and nothing is left but a few leaves of "
    "cabbage and the pigeons, which know the day as well as everybody else."
)

Logps = Float[np.ndarray, " t"]
Repeated = Float[np.ndarray, " u"]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """`plain`: largest share of a uniform guess (ln v nats); `repeated`: of the first reading; `gain`: nats a token by
    which another base must be better, and by two standard errors of the tokens' differences."""

    text: str = PASSAGE
    plain: float = 0.5
    repeated: float = 0.5
    gain: float = 0.05

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        config = opened.model.config
        refuse_random(opened)
        ids = opened.chat.tokenizer.encode(self.text, add_special_tokens=False).ids[: config.context // 2 - 1]
        lead, once, again = best_start(opened, ids)
        limit = self.plain * math.log(config.vocab)
        nats, copied = float(-once.mean()), float(-again.mean())
        odd = nats > limit
        # A text known by heart is as likely the second time; below a nat there is nothing to find.
        lost = nats > 1 and copied > self.repeated * nats
        better = self.better(opened, [(lead + ids[:1], ids[1:])], once, odd or lost)
        measured = {"nats_per_token": nats, "limit": limit, "repeated": copied, **better}
        problems = [
            text
            for text, found in (
                ("weights, RoPE or tokenizer do not fit", odd),
                ("attention does not find what stands above: RoPE, or the layout of queries and keys", lost),
            )
            if found
        ]
        problems += [f"the model is better with {name}: it was trained so" for name in self.gains(better, nats)]
        yield judged("English prose", measured, problems)

    def gains(self, better: dict[str, float], nats: float) -> Iterator[str]:
        """Names of the variants that lose fewer nats a token than `nats`."""
        yield from (name for name, value in better.items() if value < nats)

    def better(self, opened: Opened, pairs: list[Pair], plain: Logps, suspicious: bool) -> dict[str, float]:
        """Nats a token with each other base, and for suspicious models layout; as it was where the gain is in doubt."""
        found: dict[str, float] = {}
        variants = list(rotated(opened.model, opened.params))
        variants += list(permuted(opened.model, opened.params)) if suspicious else []
        with Progress("other rotations", len(variants), "models") as progress:
            for done, (name, model, params) in enumerate(variants):
                other = continuations(model, params(), opened.mesh, pairs)[0]
                gained = other - plain
                error = float(gained.std() / math.sqrt(len(gained)))
                sure = gained.mean() > max(self.gain, 2 * error)
                found[name] = float(-other.mean()) if sure else max(float(-other.mean()), float(-plain.mean()))
                progress(done + 1)
        return found


def refuse_random(opened: Opened) -> None:
    """NotHere for weights that were never trained."""
    source = opened.experiment.model
    while isinstance(source, LoRA):
        source = source.base
    if isinstance(source, RandomLlama | RandomModel):
        raise NotHere("the weights are random: they know no English")


def best_start(opened: Opened, ids: list[int]) -> tuple[list[int], Logps, Repeated]:
    """What stands before the text (nothing, or BOS if the model likes that better), and both readings' log-probs."""
    chat = opened.chat
    bos = chat.tokenizer.token_to_id(chat.specials["bos_token"]) if "bos_token" in chat.specials else None
    leads = [[]] if bos is None else [[], [bos]]
    pairs = [(lead + ids[:1], ids[1:]) for lead in leads] + [(lead + ids, ids) for lead in leads]
    found = continuations(opened.model, opened.params, opened.mesh, pairs)
    best = int(np.argmax([each.mean() for each in found[: len(leads)]]))
    return leads[best], found[best], found[len(leads) + best]


def rotated(model: Model, params: Params) -> Iterator[tuple[str, Model, Callable[[], Params]]]:
    """The model with other RoPE bases."""
    if not isinstance(model.config, DecoderConfig):
        return
    for factor in (10.0, 0.1):
        ropes = tuple(dataclasses.replace(rope, base=rope.base * factor) for rope in model.config.ropes)
        config = dataclasses.replace(model.config, ropes=ropes)
        made = split(config, model.chat, model.source, model.read)
        changed = dataclasses.replace(model, config=config, graphdef=made.graphdef, stepper=made.stepper)
        yield f"RoPE base {config.rope_base:g}", changed, lambda: params


def permuted(model: Model, params: Params) -> Iterator[tuple[str, Model, Callable[[], Params]]]:
    """The model with the rows of its query and key heads interleaved, and the other way round."""
    attention = params.get("blocks", {}).get("attention", {})
    if not all(isinstance(attention.get(name), jax.Array) for name in ("q", "k")):
        return
    for name, turn in (("q, k rows interleaved", interleaved), ("q, k rows in halves", in_halves)):

        def changed(turn: Callable[[Array], Array] = turn) -> Params:
            moved = {part: turn(attention[part]) for part in ("q", "k", "q_bias", "k_bias") if part in attention}
            return {**params, "blocks": {**params["blocks"], "attention": {**attention, **moved}}}

        yield name, model, changed


def interleaved(heads: Float[Array, "*rows h"]) -> Float[Array, "*rows h"]:
    """(0, 1, 2, 3) → (0, 2, 1, 3): neighbours become a pair."""
    first, second = jnp.split(heads, 2, axis=-1)
    return jnp.stack([first, second], axis=-1).reshape(heads.shape)


def in_halves(heads: Float[Array, "*rows h"]) -> Float[Array, "*rows h"]:
    """The inverse of `interleaved`."""
    return jnp.concatenate([heads[..., 0::2], heads[..., 1::2]], axis=-1)


CHECK = Likelihood()
