"""A language model on the mesh as a judge of pairs: both orders, from the probabilities of two labels, nothing drawn.

The question and the formulas are those of `rubric`. A forward pass over a question, with what a reply says in front of
its label written behind it, gives the probabilities of both labels as the next token: where the tokens of "Answer (a"
and of "Answer (b" part. What else could have followed is noted as probability outside the labels: a judge that would
rather say something else has not said anything by its odds of a and b. Questions that show the same answer first share
all tokens up to the second one.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxalign.contracts.scope import Site
from jaxalign.errors import BrokenContract, ModelError
from jaxalign.formats.weights import Folder
from jaxalign.models.model import Model, Source
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.days import day_problems, on_day
from jaxalign.oracles.fitting import TooLong, tokens
from jaxalign.oracles.planned import Asked, JudgeProgram, conversations, reading_of
from jaxalign.oracles.reading import Reader, Reading
from jaxalign.oracles.rubric import Question, Rubric, compared, first_is_better, questions
from jaxalign.oracles.trees import Ids, shared
from jaxalign.text.chat import Chat
from jaxalign.types import Params, Preferences, Prompt, Rollouts


@dataclasses.dataclass(frozen=True)
class LMJudge:
    """Oracle: a language model that is asked which of two answers is better. Needs no key; equal texts are at 1/2.

    Notes what `rubric.compared` does, `outside_labels`: sum over pairs of the probability, mean of both orders, of
    saying neither label, and `cut`: 1 for a prompt whose start it was not shown.
    """

    model: Source
    """where its weights, tokenizer and chat template come from"""
    rubric: Rubric = Rubric()
    """what it is asked"""
    name: str = "lm_judge"
    """what its metrics are called"""
    too_long: TooLong = "refuse"
    """what becomes of questions longer than its context: refused, or the start of the prompt is cut off"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""

    def problems(self) -> Iterable[str]:
        yield from day_problems(self.date)

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def files(self) -> Mapping[str, Folder]:
        """The files of its weights. Raises ModelError when there is no model."""
        return self.model.open().files

    def dated(self, date: datetime.date) -> "LMJudge":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenLMJudge"]:
        """Ready to judge. Raises ModelError for a model that speaks no text."""

        def reader() -> Reader:
            model = self.model.open()
            if not isinstance(model.chat, Chat):
                raise ModelError(f"{model.source}: a judge must read text, and this policy is a table")
            return Reader.of(on_day(model, self.date), label_logps, site)

        with site.once(self, reader).loaded() as reading:
            yield OpenLMJudge(self, reading)

    def planned(self, site: Site, asked: Asked, opened: Callable[[Source], Model]) -> JudgeProgram:
        """See `Planned`. A token of the rubric's own text is taken to be three of its characters."""
        model = opened(self.model)
        frame = len(self.rubric.template + self.rubric.opening + self.rubric.system) // 3
        shown = Asked(asked.samples - 1, frame + asked.prompt + asked.response, asked.response)
        groups = [conversations(shown, model.config.context)] * asked.samples  # one for each answer shown first
        return reading_of(self.name, model, label_logps, site, groups, wanted=2, scored=True)


class OpenLMJudge:
    """A judge with its weights."""

    def __init__(self, judge: LMJudge, reading: Reading):
        self.judge, self.reading = judge, reading

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses.

        Raises:
            DataError: a question is longer than the judge's context; names prompt and tokens.
            BrokenContract: a probability is not a number; names prompt and answers.
        """
        asked = questions(rollouts)
        said, cut = self.said(rollouts, asked)
        logps, outside = said[..., :2], said[..., 2]
        prefer, notes = compared(rollouts, asked, first_is_better(logps[:, 0]), first_is_better(logps[:, 1]))
        prompts = np.array([question.prompt for question in asked], np.int64)
        notes["outside_labels"] = np.bincount(prompts, outside.mean(1), len(rollouts.prompts)).astype(np.float32)
        return Preferences(self.judge.names, (1.0,), prefer, prefer[:, None], scores=None, notes={**notes, "cut": cut})

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`; see `Together`."""
        return jax.tree.map(lambda rows: rows[own], self(rollouts, key))

    def said(
        self, rollouts: Rollouts, asked: Sequence[Question]
    ) -> tuple[Float[np.ndarray, "k 2 3"], Float[np.ndarray, " b"]]:
        """Of each question in the order of texts and in the other: log-probs of both labels (nats), and the probability
        of all else. And 1 for each prompt that was cut."""
        if not asked:
            return np.zeros((0, 2, 3), np.float32), np.zeros(len(rollouts.prompts), np.float32)
        reader, rubric, name = self.reading.reader, self.judge.rubric, self.judge.name
        chat, context = reader.model.chat, reader.model.config.context
        assert isinstance(chat, Chat)
        # a row's conversations share what they begin with: the prompt, and of neighbours here the first answer too
        orders = sorted(
            Order(each.prompt, *each.shown(bool(turned)), k, turned)
            for k, each in enumerate(asked)
            for turned in (0, 1)
        )
        of_prompt = {number: list(some) for number, some in groupby(orders, lambda order: order.prompt)}

        def written(number: int, prompt: Prompt) -> list[str]:
            shown = (rubric.messages(prompt, order.first, order.second) for order in of_prompt.get(number, ()))
            begun = [chat.render(messages) + rubric.opening for messages in shown]
            return [text + label for text in begun for label in rubric.labels]

        found, cut = tokens(rollouts.prompts, written, chat, context, self.judge.too_long, name)
        begun, labels = before_labels(list(chain.from_iterable(found)), reader.model)
        in_turn = iter(begun)
        groups = [
            [next(in_turn) for _ in some] for _, some in groupby(orders, lambda order: (order.prompt, order.first))
        ]
        said = np.zeros((len(asked), 2, 3), np.float32)
        for order, values in zip(orders, self.reading(groups, labels), strict=True):
            if np.isnan(values).any():
                answers = [rollouts.texts[order.prompt].index(text) for text in (order.first, order.second)]
                raise BrokenContract(
                    f"judge {name!r}: what it says of responses {answers[0]} and {answers[1]} of prompt "
                    f"{rollouts.prompts[order.prompt].id!r} is not a number"
                )
            said[order.question, order.turned] = values
        return said, cut


class Order(NamedTuple):
    """A question in one of its orders. Sorted, those of a prompt that show the same answer first are neighbours."""

    prompt: int
    first: str
    second: str
    question: int
    turned: int


def before_labels(rows: Sequence[Ids], model: Model) -> tuple[list[Ids], Int[np.ndarray, "k 2"]]:
    """Of every two rows, which end with either label, the ids in front of the labels, and each label's id.

    Raises ModelError where the model's tokens do not tell the labels apart.
    """
    begun, labels = [], []
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        until = shared((one, other))
        if one[until] == other[until]:
            raise ModelError(f"{model.source}: both labels begin with the same token; give the rubric others")
        begun.append(one[:until])
        labels.append((one[until], other[until]))
    return begun, np.array(labels, np.int32).reshape(-1, 2)


def label_logps(
    model: Model, params: Params, last: Float[Array, "n k d"], wanted: Int[Array, "n k 2"]
) -> Float[Array, "n k 3"]:
    """Log-probs (nats) of the labels as the next token, and the probability of all other tokens together."""
    logits = model.logits(params, last)
    logps = jnp.take_along_axis(logits, wanted, axis=-1) - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    outside = jnp.maximum(1 - jnp.exp(logps).sum(-1, keepdims=True), 0)
    return jnp.concatenate([logps, outside], axis=-1)


EXAMPLE = LMJudge(RandomLlama(context=2048))
