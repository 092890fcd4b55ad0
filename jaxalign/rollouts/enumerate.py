"""Every answer of a table, enumerated: exact expectations in place of samples."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxalign.errors import DataError
from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.mesh.rows import own_rows
from jaxalign.mesh.sharding import replicated
from jaxalign.models.model import Model
from jaxalign.rollouts.contract import Bounds
from jaxalign.rollouts.lengths import encoded
from jaxalign.rollouts.shares import Share, picked
from jaxalign.types import Params, Prompt, Rollouts


@dataclass(frozen=True)
class Enumerate:
    """Every one-token answer once, weighted by its probability: exact expectations for tabular policies."""

    def bounds(self, model: Model) -> Bounds:
        """As many answers as the model has tokens, of one token each."""
        vocab = model.config.vocab
        return Bounds(vocab, model.config.context - 1, 1, vocab)

    def unpaired(self) -> Iterable[str]:
        """Answers are all different."""
        return ()

    def on(self, model: Model, mesh: jax.sharding.Mesh, options: Options | None = None, rows: int = 64) -> "Enumerator":
        """Ready to enumerate `model`'s answers."""
        del options, rows  # a table has one column for all answers: nothing to overlap, nothing to split
        return Enumerator(model, mesh, self.bounds(model))


class Enumerator:
    """Enumerates the answers of a policy whose responses are single tokens."""

    def __init__(self, model: Model, mesh: jax.sharding.Mesh, bounds: Bounds):
        self.bounds, self._model = bounds, model
        self._probs = jax.jit(self._last_token, out_shardings=replicated(mesh))  # a table fits one device

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError unless all prompts are of one length: they are read together, without padding."""
        lengths = {len(encoded(self._model.chat, prompt)) for prompt in prompts}
        if len(lengths) > 1:
            raise DataError(
                f"answers are enumerated to prompts of one length, these have {min(lengths)} to {max(lengths)} tokens: "
                "sample answers instead"
            )

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], key: PRNGKeyArray
    ) -> Iterator[Share]:
        """One piece of all prompts, with m = v and weights π; nothing is drawn."""
        del key
        if len(wanted):
            own, rollouts = self._enumerate(params, prompts)
            here = np.isin(own, wanted)
            yield Share(own[here], picked(rollouts, here))

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """None worth a plan."""
        del params, prompt
        return ()

    def calls(self, prompts: int) -> Mapping[str, int]:
        """None."""
        del prompts
        return {}

    def _enumerate(self, params: Params, prompts: Sequence[Prompt]) -> tuple[Int[np.ndarray, " b"], Rollouts]:
        """Numbers of the prompts that this process reads, and every answer to them."""
        ids = np.array([encoded(self._model.chat, prompt) for prompt in prompts], np.int32)
        own, (logps,) = own_rows((self._probs(params, ids),))
        count, answers = logps.shape
        names = tuple(self._model.chat.decode([token]) for token in range(answers))
        return own, Rollouts(
            prompts=tuple(prompts[index] for index in own),
            texts=(names,) * count,
            prompt_tokens=ids[own],
            prompt_lengths=np.full(count, ids.shape[1], np.int32),
            tokens=np.tile(np.arange(answers, dtype=np.int32)[None, :, None], (count, 1, 1)),
            lengths=np.ones((count, answers), np.int32),
            finished=np.ones((count, answers), bool),
            logps=logps[:, :, None],
            weights=np.exp(logps),
        )

    def _last_token(self, params: Params, prompts: Int[Array, "b p"]) -> Float[Array, "b v"]:
        count, width = prompts.shape
        position = jnp.tile(jnp.arange(width)[None, :], (count, 1))
        mask = jnp.tile(jnp.tril(jnp.ones((width, width), bool))[None], (count, 1, 1))
        hidden, _ = self._model.prefill(params, prompts, position, mask, capacity=width)
        return jax.nn.log_softmax(self._model.logits(params, hidden), axis=-1)


EXAMPLE = Enumerate()
