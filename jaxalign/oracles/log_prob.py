"""Answers rated by language models: how likely they are to one, or how much likelier to one than to another.

    LogProb         S(y) = log π(y)
    DensityRatio    S(y) = log π_strong(y) − log π_weak(y)

Xu et al. 2024 (arXiv 2411.02481) annotate preferences by the ratio of a strong over a weak model, two of one base that
parted in training. Of a policy that DPO has trained over the one that it began with it is the implicit reward, but for
beta (Rafailov et al. 2023, arXiv 2305.18290): pairs with a small margin of it are `pairings.CloseRatings` of this.

Every model reads the texts through its own template and tokenizer, so the two may differ in these, and both from the
policy. Log-probs are nats, summed over the answer's tokens and the end of its turn.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.contracts.scope import Site
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.tokenised import Ids
from jaxalign.errors import DataError, ModelError
from jaxalign.formats.weights import Folder
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import full_rows
from jaxalign.models.model import Model, Source
from jaxalign.oracles.annotators import Scores
from jaxalign.oracles.days import day_problems, on_day
from jaxalign.oracles.planned import Asked, JudgeProgram, by_rows, weights_on
from jaxalign.oracles.reading import loaded
from jaxalign.text.chat import Chat
from jaxalign.text.pairs import Encode, Room
from jaxalign.training.logps import Scorer, scoring
from jaxalign.training.rows import Sizes, abstract_batch
from jaxalign.types import Params, Prompt, Rollouts


@dataclasses.dataclass(frozen=True)
class LogProb:
    """Annotator: the log-prob (nats) of an answer under a language model."""

    model: Source
    """where its weights, tokenizer and chat template come from"""
    name: str = "log_prob"
    """how metrics call it"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""

    def problems(self) -> Iterable[str]:
        yield from day_problems(self.date)

    def files(self) -> Mapping[str, Folder]:
        """The files of its weights. Raises ModelError when there is no model."""
        return self.model.open().files

    def dated(self, date: datetime.date) -> "LogProb":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenLogProb"]:
        """Ready to score; the weights are freed when the scope closes. Raises ModelError for a model that speaks no
        text."""

        def make() -> tuple[Model, Scorer]:
            model = self.model.open()
            if model.config.outputs or not isinstance(model.chat, Chat):
                raise ModelError(f"{model.source}: is no language model that reads text, and {self.name} needs one")
            there = on_day(model, self.date).on(site.mesh, site.rules)
            return there, Scorer(there, site.mesh, site.rows, site.options)

        model, scorer = site.once(self, make)
        params = loaded(model, site)
        try:
            yield OpenLogProb(self, model, scorer, params)
        finally:
            for leaf in jax.tree.leaves(params):
                leaf.delete()

    def planned(self, site: Site, asked: Asked, opened: Callable[[Source], Model]) -> JudgeProgram:
        """See `Planned`."""
        model = opened(self.model).on(site.mesh, site.rules)
        rows, shape = full_rows(site.mesh, site.rows), Sizes(asked.prompt, asked.response, asked.samples).rows
        batch = by_rows(abstract_batch(shape, rows, (), responses=asked.samples), site)
        work = Work(rows * shape.row, rows * shape.row, rows * shape.scored, shape.row, ("forward",))
        program = scoring(model, site.mesh, site.options)
        return JudgeProgram(Program(self.name, program, (weights_on(model, site), batch), work, model=model), rows, 1)


class OpenLogProb:
    """A language model with its weights."""

    def __init__(self, judge: LogProb, model: Model, scorer: Scorer, params: Params):
        self.judge, self.name = judge, judge.name
        self._model, self._scorer, self._params = model, scorer, params

    def block(self, rollouts: Rollouts) -> Scores:
        """Log-probs of the answers. Raises DataError, by prompt, for one that the template or the context refuses."""
        said = as_read(rollouts, self._model, self.name)
        return Scores(self._scorer.rollouts(self._params, said).astype(np.float64))


@dataclasses.dataclass(frozen=True)
class DensityRatio:
    """Annotator: how much likelier (nats) an answer is under one language model than under another."""

    strong: LogProb
    """the model whose answers are the better ones"""
    weak: LogProb
    """the model that it is compared with"""
    name: str = "density_ratio"
    """how metrics call it"""

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenDensityRatio"]:
        """Ready to score, with both models."""
        with self.strong.open(site) as strong, self.weak.open(site) as weak:
            yield OpenDensityRatio(self.name, strong, weak)


@dataclasses.dataclass(frozen=True)
class OpenDensityRatio:
    """Two language models with their weights."""

    name: str
    strong: OpenLogProb
    weak: OpenLogProb

    def block(self, rollouts: Rollouts) -> Scores:
        """Log-ratios of the answers; raises as `OpenLogProb.block`."""
        return Scores(self.strong.block(rollouts).values - self.weak.block(rollouts).values)


def as_read(rollouts: Rollouts, model: Model, who: str) -> Rollouts:
    """The same prompts and texts in the tokens of `model`."""
    chat, context = model.chat, model.config.context
    assert isinstance(chat, Chat)
    texts = [(number, text) for number, said in enumerate(rollouts.texts) for text in dict.fromkeys(said)]
    made = Encode(chat, Room(context, context))([lone(rollouts.prompts[number], text) for number, text in texts])
    known = dict[tuple[int, str], Ids]()
    for (number, text), ids in zip(texts, made, strict=True):
        where = f"{who}: the answer {text[:40]!r} to prompt {rollouts.prompts[number].id!r}"
        if isinstance(ids, str):
            raise DataError(f"{where} cannot be read by {model.source}: {ids}")
        if (length := len(ids.prompt) + len(ids.answers[0])) > context:
            raise DataError(f"{where} has {length} tokens with its prompt, and {model.source} reads {context}")
        known[number, text] = ids
    read = [[known[number, text] for text in said] for number, said in enumerate(rollouts.texts)]
    prompts, prompt_lengths = padded([each[0].prompt for each in read])
    answers, lengths = padded([ids.answers[0] for each in read for ids in each])
    shape = rollouts.lengths.shape
    tokens = answers.reshape(*shape, -1)
    return dataclasses.replace(
        rollouts,
        prompt_tokens=prompts,
        prompt_lengths=prompt_lengths,
        tokens=tokens,
        lengths=lengths.reshape(shape),
        logps=np.zeros(tokens.shape, np.float32),
    )


def lone(prompt: Prompt, text: str) -> Comparison:
    """An answer that nobody has compared."""
    return Comparison(prompt, (text,), 1.0, (None,), prompt.id)


def padded(rows: Sequence[Int[np.ndarray, " _"]]) -> tuple[Int[np.ndarray, "k w"], Int[np.ndarray, " k"]]:
    """Rows of one width, 0 beyond their lengths, and these."""
    lengths = np.array([len(row) for row in rows], np.int32)
    table = np.zeros((len(rows), int(np.max(lengths, initial=1))), np.int32)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table, lengths
