"""Learned judges: a reward model as an annotator of a panel, a general preference model as an oracle.

Both are Hugging Face directories of sequence classifiers. The conversation with the answer goes through the judge's own
chat template, which may ask for the date: a run gives its judges that of its first launch. Inside their scope they lie
on the run's mesh and score every answer once, those of a prompt behind what their conversations begin with alike.
"""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxalign.contracts.scope import Site
from jaxalign.errors import BrokenContract, ModelError
from jaxalign.formats import native
from jaxalign.formats.weights import Folder
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.heads import outputs, preference_margin
from jaxalign.models.model import Model, Source
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.stack import Dtype
from jaxalign.oracles.annotators import Scores
from jaxalign.oracles.days import day_problems, on_day
from jaxalign.oracles.fitting import TooLong, tokens
from jaxalign.oracles.panel import probabilities
from jaxalign.oracles.planned import Asked, JudgeProgram, conversations, reading_of
from jaxalign.oracles.reading import Reader, Reading
from jaxalign.text.chat import Chat
from jaxalign.types import Params, Preferences, Prompt, Rollouts


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """Annotator: a Bradley–Terry reward model with one output; scores are logits, temperature 1 is as trained.

    Notes `cut`: 1 for a prompt whose start it was not shown.
    """

    path: str
    """the directory"""
    name: str = "reward_model"
    """how metrics call it"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in, and kept in while it judges"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""
    too_long: TooLong = "refuse"
    """what becomes of conversations longer than its context: refused, or the start of the prompt is cut off"""
    shape: DecoderConfig | None = None
    """what its files are expected to say, and what a plan is made with where they are not; None: nothing"""

    def problems(self) -> Iterable[str]:
        yield from judge_problems(self.path, self.date, self.shape)

    def files(self) -> Mapping[str, Folder]:
        """The files of the directory that are read. Raises ModelError when it holds no model."""
        return native.contents(Path(self.path))

    def dated(self, date: datetime.date) -> "RewardModel":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @property
    def source(self) -> Pretrained:
        """The model whose head scores."""
        return Pretrained(self.path, self.compute_dtype, self.shape)

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenRewardModel"]:
        """Ready to score. Raises ModelError for a model of another number of outputs."""

        def reader() -> Reader:
            return judge_reader(self.source.open(), self.date, site, lambda count: count == 1, "one output")

        with site.once(self, reader).loaded() as reading:
            yield OpenRewardModel(self, reading)

    def planned(self, site: Site, asked: Asked, opened: Callable[[Source], Model]) -> JudgeProgram:
        """See `Planned`."""
        return planned(self.name, opened(self.source), site, asked)


class OpenRewardModel:
    """A reward model with its weights."""

    def __init__(self, judge: RewardModel, reading: Reading):
        self.judge, self.reading, self.name = judge, reading, judge.name

    def block(self, rollouts: Rollouts) -> Scores:
        """Rewards of the answers. Raises DataError when the judge's template or context refuses one."""
        found, cut = said(self.reading, rollouts, self.judge.too_long, self.judge.path)
        return Scores(found[..., 0], {"cut": cut})


@dataclasses.dataclass(frozen=True)
class PreferenceModel:
    """Oracle: a general preference model (arXiv 2410.02197) with 2k outputs. Needs no key.

    Notes `cut`: 1 for a prompt whose start it was not shown.
    """

    path: str
    """the directory"""
    temperature: float = 1.0
    """log-odds are divided by it, > 0"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in, and kept in while it judges"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""
    too_long: TooLong = "refuse"
    """what becomes of conversations longer than its context: refused, or the start of the prompt is cut off"""
    shape: DecoderConfig | None = None
    """what its files are expected to say, and what a plan is made with where they are not; None: nothing"""

    def problems(self) -> Iterable[str]:
        if not self.temperature > 0:
            yield f"temperature must be positive, got {self.temperature}"
        yield from judge_problems(self.path, self.date, self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        """One annotator."""
        return ("preference_model",)

    def files(self) -> Mapping[str, Folder]:
        """The files of the directory that are read. Raises ModelError when it holds no model."""
        return native.contents(Path(self.path))

    def dated(self, date: datetime.date) -> "PreferenceModel":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @property
    def source(self) -> Pretrained:
        """The model whose head compares."""
        return Pretrained(self.path, self.compute_dtype, self.shape)

    @contextmanager
    def open(self, site: Site) -> Iterator["OpenPreferenceModel"]:
        """Ready to judge. Raises ModelError for a model of another number of outputs."""

        def reader() -> Reader:
            even = "an even number of outputs"
            return judge_reader(self.source.open(), self.date, site, lambda count: count % 2 == 0, even)

        with site.once(self, reader).loaded() as reading:
            yield OpenPreferenceModel(self, reading)

    def planned(self, site: Site, asked: Asked, opened: Callable[[Source], Model]) -> JudgeProgram:
        """See `Planned`."""
        return planned("preference_model", opened(self.source), site, asked)


class OpenPreferenceModel:
    """A general preference model with its weights."""

    def __init__(self, judge: PreferenceModel, reading: Reading):
        self.judge, self.reading = judge, reading

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses.

        Raises:
            DataError: the judge's template or context refuses an answer; names prompt and tokens.
            BrokenContract: an output is not finite; names prompt and response.
        """
        found, cut = said(self.reading, rollouts, self.judge.too_long, self.judge.path)
        for prompt, index in np.argwhere(~np.isfinite(found).all(-1)):
            raise BrokenContract(
                f"{self.judge.path}: what it says of response {index} of prompt {rollouts.prompts[prompt].id!r} is "
                f"{found[prompt, index].tolist()}"
            )
        first, second = jnp.broadcast_arrays(found[:, :, None], found[:, None])
        margin = np.asarray(preference_margin(first, second), np.float64)
        prefer = probabilities(np.tanh(margin / (2 * self.judge.temperature)) / 2)
        return Preferences(self.judge.names, (1.0,), prefer, prefer[:, None], scores=None, notes={"cut": cut})

    def among(self, rollouts: Rollouts, own: Int[np.ndarray, " k"], key: PRNGKeyArray) -> Preferences:
        """The same for the prompts numbered `own`; see `Together`."""
        return jax.tree.map(lambda rows: rows[own], self(rollouts, key))


def judge_problems(path: str, date: str, shape: DecoderConfig | None) -> Iterable[str]:
    """What is wrong with the settings that judges share."""
    if shape is None and not Path(path).is_dir():
        yield f"path {path!r} is no directory"
    yield from day_problems(date)


def judge_reader(model: Model, date: str, site: Site, fits: Callable[[int], bool], count: str) -> Reader:
    """A judge's model, on its date if it has one. Raises ModelError unless its number of outputs fits."""
    found = len(model.config.outputs)
    if not (found and fits(found)):
        raise ModelError(f"{model.source}: has {found} outputs; this judge needs {count}")
    return Reader.of(on_day(model, date), scored, site)


def scored(
    model: Model, params: Params, last: Float[Array, "n k d"], wanted: Int[Array, "n k 0"]
) -> Float[Array, "n k o"]:
    """The outputs of a score model."""
    return outputs(model.head(params), last)


def planned(name: str, model: Model, site: Site, asked: Asked) -> JudgeProgram:
    """The program that reads all answers to a prompt."""
    return reading_of(name, model, scored, site, [conversations(asked, model.config.context)], wanted=0, scored=False)


def said(
    reading: Reading, rollouts: Rollouts, too_long: TooLong, who: str
) -> tuple[Float[np.ndarray, "b m o"], Float[np.ndarray, " b"]]:
    """Outputs for each answer, and 1 for each prompt that was cut."""
    chat = reading.reader.model.chat
    assert isinstance(chat, Chat)

    def written(number: int, prompt: Prompt) -> list[str]:
        whole = ((*prompt.messages, {"role": "assistant", "content": text}) for text in rollouts.texts[number])
        return [chat.render(messages, prompt.tool_list, answering=False) for messages in whole]

    groups, cut = tokens(rollouts.prompts, written, chat, reading.reader.model.config.context, too_long, who)
    found = reading([[chat.judged(ids) for ids in group] for group in groups])
    return found.reshape(*rollouts.lengths.shape, -1), cut
