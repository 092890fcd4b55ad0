"""Samples of a policy: what is drawn. How, an engine says (`lockstep`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.contracts.traced import check_sampler
from jaxalign.errors import ConfigError
from jaxalign.mesh.flags import Options
from jaxalign.mesh.program import Program
from jaxalign.mesh.rounding import rounded
from jaxalign.models.speaker import Speaker
from jaxalign.rollouts.contract import Bounds, Drawn, RolloutEngine, Task
from jaxalign.rollouts.keys import Keys
from jaxalign.rollouts.lengths import encoded, refuse_longer
from jaxalign.rollouts.lockstep import PROMPT_BUCKET, Lockstep
from jaxalign.rollouts.samplers import Greedy, Temperature
from jaxalign.rollouts.seam import refuse_drawn
from jaxalign.rollouts.shares import Share
from jaxalign.types import Params, Prompt, Rollouts, Sampler


@dataclass(frozen=True)
class Sample:
    """Samples of the policy: `samples` responses of at most `max_tokens` tokens to every prompt."""

    samples: int = 4
    """responses a prompt (m)"""
    max_tokens: int = 64
    """longest response, tokens, its end-of-turn token included"""
    sampler: Sampler = Temperature(1.0)
    """how the next token is drawn"""
    max_prompt_tokens: int | None = None
    """longest prompt, tokens; longer ones are refused. None: what the model's context leaves"""
    engine: RolloutEngine = Lockstep()
    """in what order and company rows are decoded; changes no token"""

    def problems(self) -> Iterable[str]:
        for name, value in (
            ("samples", self.samples),
            ("max_tokens", self.max_tokens),
        ):
            if value < 1:
                yield f"{name} must be at least 1, got {value}"
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            yield f"max_prompt_tokens must be at least 1 or None, got {self.max_prompt_tokens}"

    def bounds(self, model: Speaker) -> Bounds:
        """Prompts are as long as the context leaves room for, or as they may be."""
        room = model.config.context - self.max_tokens
        return Bounds(self.samples, min(room, self.max_prompt_tokens or room), self.max_tokens, model.config.vocab)

    def unpaired(self) -> Iterable[str]:
        """A single sample has none to be compared with; greedy ones are all equal."""
        if self.samples < 2:
            yield f"samples must be at least 2 to have pairs, got {self.samples}"
        if isinstance(self.sampler, Greedy):
            yield "sampler is Greedy: all samples of a prompt would be equal and leave no pairs"

    def on(
        self, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None = None, rows: int = 64
    ) -> "SampleRoller":
        """Ready to roll out `model` on `mesh`, about `rows` responses together: programs, compiled with `options`, are
        kept between calls."""
        return SampleRoller(self, model, mesh, options, rows)


class SampleRoller:
    """The tokens that the engine draws, as rollouts. Raises BrokenContract for draws that are none of the task."""

    def __init__(self, spec: Sample, model: Speaker, mesh: jax.sharding.Mesh, options: Options | None, rows: int):
        check_sampler(spec.sampler, model.config.vocab)
        self.spec, self.bounds, self._model = spec, spec.bounds(model), model
        self._task = Task(spec.samples, spec.max_tokens, spec.sampler, model.chat.stop)
        self._engine = spec.engine.open(self._task, model, mesh, options, rows)

    def check(self, prompts: Iterable[Prompt]) -> None:
        """DataError naming every prompt that is longer than allowed, or leaves its response no room in the context;
        ConfigError where no prompt could."""
        context, most = self._model.config.context, self.spec.max_tokens
        if self.bounds.prompt < 1:
            raise ConfigError(
                f"max_tokens is {most}, which leaves a prompt no room in the model's context of {context} tokens: "
                "lower max_tokens"
            )
        reason, remedy = (
            (f"the model's context of {context} less the {most} tokens of a response", "lower max_tokens")
            if self.bounds.prompt == context - most
            else ("max_prompt_tokens", "raise max_prompt_tokens")
        )
        lengths = ((prompt.id, len(encoded(self._model.chat, prompt))) for prompt in prompts)
        refuse_longer(lengths, self.bounds.prompt, reason, remedy)

    def __call__(
        self, params: Params, prompts: Sequence[Prompt], wanted: Int[np.ndarray, " k"], keys: Keys
    ) -> Iterator[Share]:
        """The engine's pieces."""
        ids = [encoded(self._model.chat, prompt) for prompt in prompts]
        table, lengths = _right_padded(ids)
        for drawn in self._engine(params, ids, wanted, keys):
            refuse_drawn(self.spec.engine, self.spec.sampler, drawn, wanted, self.bounds)
            yield Share(drawn.numbers, self._rollouts(drawn, prompts, table, lengths), drawn.notes)

    def programs(self, params: Params, prompt: int) -> tuple[Program, ...]:
        """The engine's."""
        return self._engine.programs(params, prompt)

    def calls(self, prompts: int) -> Mapping[str, int]:
        """The engine's."""
        return self._engine.calls(prompts)

    def _rollouts(
        self,
        drawn: Drawn,
        prompts: Sequence[Prompt],
        table: Int[np.ndarray, "b p"],
        lengths: Int[np.ndarray, " b"],
    ) -> Rollouts:
        """`table` holds the tokens of all prompts, right-padded, `lengths` how many they are."""
        return Rollouts(
            prompts=tuple(prompts[number] for number in drawn.numbers),
            texts=tuple(
                tuple(self._model.chat.decode(row[:length].tolist()) for row, length in zip(rows, ends, strict=True))
                for rows, ends in zip(drawn.tokens, drawn.lengths, strict=True)
            ),
            prompt_tokens=table[drawn.numbers],
            prompt_lengths=lengths[drawn.numbers],
            tokens=drawn.tokens,
            lengths=drawn.lengths,
            finished=drawn.finished,
            logps=drawn.logps,
            weights=np.full(drawn.lengths.shape, 1 / self.spec.samples, np.float32),
        )


def _right_padded(ids: Sequence[Sequence[int]]) -> tuple[Int[np.ndarray, "b p"], Int[np.ndarray, " b"]]:
    """The same width for all pieces, whatever the engine makes of them."""
    lengths = np.array([len(row) for row in ids], np.int32)
    table = np.zeros((len(ids), rounded(int(np.max(lengths, initial=1)), PROMPT_BUCKET)), np.int32)
    for row, tokens in enumerate(ids):
        table[row, : len(tokens)] = tokens
    return table, lengths


EXAMPLE = Sample(samples=2, max_tokens=4)
