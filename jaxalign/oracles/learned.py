"""Learned judges: a reward model as an annotator of a panel, a general preference model as an oracle.

Both are Hugging Face directories of sequence classifiers, read when the first answers come and kept on the default
device. The conversation with the answer goes through the judge's own chat template, which may ask for the date: a run
gives its judges that of its first launch.
"""

import dataclasses
import datetime
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from jaxalign.errors import ModelError
from jaxalign.formats import native
from jaxalign.formats.weights import Folder
from jaxalign.models.decoder import Dtype
from jaxalign.models.headed import Classifier, open_classifier
from jaxalign.models.heads import preference_margin
from jaxalign.oracles.panel import probabilities
from jaxalign.types import Preferences, Prompt, Rollouts


@dataclasses.dataclass(frozen=True)
class RewardModel:
    """Annotator: a Bradley–Terry reward model with one output; scores are logits, temperature 1 is as trained."""

    path: str
    """the directory"""
    name: str = "reward_model"
    """how metrics call it"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""

    def problems(self) -> Iterable[str]:
        yield from judge_problems(self.path, self.date)

    def files(self) -> Mapping[str, Folder]:
        """The files of the directory that are read. Raises ModelError when it holds no model."""
        return native.contents(Path(self.path))

    def dated(self, date: datetime.date) -> "RewardModel":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @functools.cached_property
    def judge(self) -> Classifier:
        return opened(self.path, self.compute_dtype, self.date, lambda count: count == 1, "one output")

    def __call__(self, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, " m"]:
        """Rewards of the answers. Raises DataError when the judge's template or context refuses one."""
        return judged(self.judge, prompt, texts)[:, 0]


@dataclasses.dataclass(frozen=True)
class PreferenceModel:
    """Oracle: a general preference model (arXiv 2410.02197) with 2k outputs. Needs no key."""

    path: str
    """the directory"""
    temperature: float = 1.0
    """log-odds are divided by it, > 0"""
    compute_dtype: Dtype = "float32"
    """what matrices are multiplied in"""
    date: str = ""
    """what its template is told when it asks, as 2026-11-28; empty: the day of the run's first launch"""

    def problems(self) -> Iterable[str]:
        if not self.temperature > 0:
            yield f"temperature must be positive, got {self.temperature}"
        yield from judge_problems(self.path, self.date)

    def files(self) -> Mapping[str, Folder]:
        """The files of the directory that are read. Raises ModelError when it holds no model."""
        return native.contents(Path(self.path))

    def dated(self, date: datetime.date) -> "PreferenceModel":
        """The same on `date`, unless it has one."""
        return dataclasses.replace(self, date=self.date or date.isoformat())

    @functools.cached_property
    def judge(self) -> Classifier:
        return opened(
            self.path, self.compute_dtype, self.date, lambda count: count % 2 == 0, "an even number of outputs"
        )

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences:
        """Preferences among each prompt's responses."""
        pairs = zip(rollouts.prompts, rollouts.texts, strict=True)
        found = jnp.asarray(np.stack([judged(self.judge, prompt, texts) for prompt, texts in pairs]))
        first, second = jnp.broadcast_arrays(found[:, :, None], found[:, None])
        margin = np.asarray(preference_margin(first, second), np.float64)
        prefer = probabilities(np.tanh(margin / (2 * self.temperature)) / 2)
        return Preferences(("preference_model",), (1.0,), prefer, prefer[:, None], scores=None)


def judge_problems(path: str, date: str) -> Iterable[str]:
    """What is wrong with the settings that judges share."""
    if not Path(path).is_dir():
        yield f"path {path!r} is no directory"
    try:
        datetime.date.fromisoformat(date or "2026-11-28")
    except ValueError:
        yield f"date {date!r} is no day such as 2026-11-28"


def opened(path: str, compute_dtype: Dtype, date: str, fits: Callable[[int], bool], count: str) -> Classifier:
    """The judge at `path`, on its date if it has one. Raises ModelError unless its number of outputs fits."""
    judge = open_classifier(path, compute_dtype)
    if not fits(judge.outputs):
        raise ModelError(f"{path}: score.weight has {judge.outputs} outputs; this needs {count}")
    if not date:
        return judge
    return dataclasses.replace(judge, model=judge.model.dated(datetime.date.fromisoformat(date)))


def judged(judge: Classifier, prompt: Prompt, texts: tuple[str, ...]) -> Float[np.ndarray, "m o"]:
    """Outputs for each answer to the prompt."""
    return judge.conversations([(*prompt.messages, {"role": "assistant", "content": text}) for text in texts])
