"""Dimension letters, PyTrees and contracts: what the parts of a run hand to one another.

Dimension letters (every public array is annotated with them):

    b prompts, or groups in a batch     m samples per prompt        r responses in a training group
    n rows                              s row length                p prompt tokens
    t response tokens                   q scored tokens of a row    c cache length
    d model width                       v vocabulary                o objectives or annotators

Prompts and rollouts are frozen dataclasses of host data. What is said of them (preferences, groups, labels) and what
enters `jit` (rows, log-probs, states) are PyTrees, made by `pytree`: the arrays of one lie along the same first axis,
so `jax.tree.map` cuts, picks, stacks and joins them, and none of their fields is named anywhere but where it is made
and where it is read.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from jaxalign.errors import DataError

Params = dict[str, Any]
"""Nested dict of arrays: the parameters of one policy."""

Metrics = dict[str, float]

Memory = Literal["device", "pinned_host"]
"""Which memory something is kept in between steps: the device's, or the host's, from where it is fetched."""

if TYPE_CHECKING:
    Anywhere = Any
else:
    Anywhere = Array | np.ndarray
"""On devices, or on the host on the way there."""

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def pytree(cls: type[T]) -> type[T]:
    """Frozen dataclass that is a PyTree of its fields, in the order of declaration, but for those declared with
    metadata={"static": True}: they are hashable constants of the structure.

    JAX rebuilds PyTrees with leaves that are not arrays (tracers, `None`, specs), so rebuilding bypasses the
    constructor and with it the runtime check of annotations that tests switch on.
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(made)  # type: ignore[arg-type]
    names = tuple(field.name for field in fields if not field.metadata.get("static"))
    constants = tuple(field.name for field in fields if field.metadata.get("static"))

    def flatten(tree: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        children = [(jax.tree_util.GetAttrKey(name), getattr(tree, name)) for name in names]
        return children, tuple(getattr(tree, name) for name in constants)

    def unflatten(values: tuple[Any, ...], leaves: Any) -> Any:
        tree = object.__new__(made)
        for name, leaf in (*zip(names, leaves, strict=True), *zip(constants, values, strict=True)):
            object.__setattr__(tree, name, leaf)
        return tree

    jax.tree_util.register_pytree_with_keys(made, flatten, unflatten)
    return made


def widen(made: Any) -> None:
    """Makes fp32 of the bf16 and fp16 in a frozen dataclass, which holds each of their values. Gradients that flow to
    what its constructor is given have the precision of that."""
    wide = lambda leaf: leaf.astype(np.float32) if leaf.dtype.name in ("bfloat16", "float16") else leaf  # noqa: E731
    for field in dataclasses.fields(made):
        object.__setattr__(made, field.name, jax.tree.map(wide, getattr(made, field.name)))


# --------------------------------------------------------------------------------------------------------------
# Host data: one frozen dataclass an artifact


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One conversation to answer: `messages` are {"role", "content"} mappings, the last one from the user. `tools` is
    the JSON of the list of tools that the model may call, for its chat template; empty: none."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    tools: str = ""

    @property
    def text(self) -> str:
        """The last user message."""
        return self.messages[-1]["content"]

    @property
    def tool_list(self) -> list[dict[str, Any]] | None:
        """`tools`, parsed; None where there are none."""
        return json.loads(self.tools) if self.tools else None


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """m responses for each of b prompts, all from one policy.

    `prompt_tokens` is right-padded with zeros beyond `prompt_lengths`; `tokens` beyond `lengths`. A finished
    response ends with its end-of-turn token, which counts in `lengths` and is scored; one cut by the length
    limit has none (`finished` is False). `logps` are the policy's own log-probs (nats, before temperature or
    truncation of the sampler). `weights` sum to 1 over m: 1/m for samples, the policy's probabilities when the
    responses enumerate every answer.
    """

    prompts: tuple[Prompt, ...]
    texts: tuple[tuple[str, ...], ...]
    prompt_tokens: Int[np.ndarray, "b p"]
    prompt_lengths: Int[np.ndarray, " b"]
    tokens: Int[np.ndarray, "b m t"]
    lengths: Int[np.ndarray, "b m"]
    finished: Bool[np.ndarray, "b m"]
    logps: Float[np.ndarray, "b m t"]
    weights: Float[np.ndarray, "b m"]


@pytree
class Preferences:
    """P(i beats j) for every ordered pair of a prompt's responses; `prefer` + its transpose = 1, diagonal 1/2.

    `by_annotator` keeps the annotators (or objectives) apart, in the order of `annotators`; `prefer` is what they say
    together, each with its share of `weights` (which sum to 1). `scores` are the annotators' scalar scores, in units of
    their own; None unless every annotator scores. `notes` count by name what a judge could not do as it should.
    """

    annotators: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    weights: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    prefer: Float[np.ndarray, "b m m"]
    by_annotator: Float[np.ndarray, "b o m m"]
    scores: Float[np.ndarray, "b o m"] | None
    notes: dict[str, Float[np.ndarray, " b"]] = dataclasses.field(default_factory=dict)


@pytree
class Labels:
    """What is said of b groups of r responses: by the oracle, and by each of its o annotators (objectives) alone.

    `prefer` is the probability that response 0 is preferred to response 1 (1.0 when the label is certain). `win` is
    each response's probability to beat the policy that sampled it, the weighted mean of its row of `Preferences.prefer`
    (itself included at 1/2); None where nobody knows what that policy says. `score` is the weighted mean of the
    annotators' scores; None where they give none. `votes` are P_o(0 ≻ 1) of each annotator; `decided` is 0 where that
    is exactly 1/2 or unknown, else 1. `margin` ≥ 0 is how much better the winner is, None where nobody says it.
    """

    prefer: Float[Anywhere, " b"]
    win: Float[Anywhere, "b r"] | None
    score: Float[Anywhere, "b r"] | None
    votes: Float[Anywhere, "b o"]
    decided: Float[Anywhere, "b o"]
    margin: Float[Anywhere, " b"] | None = None

    @classmethod
    def of_one(
        cls, prefer: Float[Anywhere, " b"], win: Float[Anywhere, "b r"], score: Float[Anywhere, "b r"] | None = None
    ) -> "Labels":
        """One annotator's, whose vote is the label."""
        votes = prefer[:, None]
        return cls(prefer=prefer, win=win, score=score, votes=votes, decided=(votes != 0.5).astype(prefer.dtype))

    def of_annotator(self, index: int) -> "Labels":
        """What annotator `index` says alone. Win rates and scores are not among it: they are of all together."""
        votes, decided = (table[:, index : index + 1] for table in (self.votes, self.decided))
        return Labels(prefer=votes[:, 0], win=None, score=None, votes=votes, decided=decided)

    @classmethod
    def unsaid(cls, groups: int, responses: int, objectives: int = 1) -> "Labels":
        """Of groups that nobody has compared, and no margins: all even, nothing decided."""
        each, votes = np.full((groups, responses), 0.5, np.float32), np.full((groups, objectives), 0.5, np.float32)
        return cls(prefer=each[:, 0], win=each, score=np.zeros_like(each), votes=votes, decided=np.zeros_like(votes))


@pytree
class Groups:
    """Training groups: `responses[g]` are indices among the m responses of prompt `prompt[g]`, chosen first.

    `weight` is the group's share in the loss before normalisation.
    """

    prompt: Int[np.ndarray, " g"]
    responses: Int[np.ndarray, "g r"]
    weight: Float[np.ndarray, " g"]
    labels: Labels


# --------------------------------------------------------------------------------------------------------------
# Device data


@pytree
class Rows:
    """Token rows that are trees: a prompt is the trunk (branch 0), each response a branch (1 … r) of its group.

    A token attends to tokens of its own group with position <= its own whose branch is 0 or its own; `group` is
    -1 on padding. Position continues from the prompt in every branch. Scored tokens are listed: the log-prob of
    `target[n, q]` comes from the hidden state at `source[n, q]`, its predecessor in its own branch, and belongs to
    cell `slot[n, q]` of the flattened [b r t] table of response tokens (-1: padding).
    """

    tokens: Int[Anywhere, "n s"]
    group: Int[Anywhere, "n s"]
    branch: Int[Anywhere, "n s"]
    position: Int[Anywhere, "n s"]
    source: Int[Anywhere, "n q"]
    target: Int[Anywhere, "n q"]
    slot: Int[Anywhere, "n q"]


@pytree
class Batch:
    """Rows and what belongs to their b groups: log-prob sums by role and last hidden states, where they are stored.

    A row holds k responses: those of one group, or the different ones of b / n groups that stand together. Then
    `branch` says which of its row's responses each response of a group is; None: each group has a row of its own.
    `last_tokens` are log-probs by token that the policy which sampled has logged, `edited` as in `contracts.extras`.
    """

    rows: Rows
    mask: Bool[Anywhere, "n k t"]
    weight: Float[Anywhere, " b"]
    labels: Labels
    references: dict[str, Float[Anywhere, "b r"]]
    features: Float[Anywhere, "b r d"] | None = None
    branch: Int[Anywhere, "b r"] | None = None
    last_tokens: Float[Anywhere, "n k t"] | None = None
    edited: Int[Anywhere, "b r t"] | None = None


@pytree
class GroupLogps:
    """What a loss sees: log-probs (nats) of r responses in each of b groups; index 0 chosen, 1 rejected.

    In fp32, whatever the constructor is given. `tokens` are the policy's per-token log-probs where `mask`; `last` and
    `anchor` are sums over tokens under the policy that sampled this iteration (where a step rule looks ahead: that the
    step begins at) and under the anchor, None where they are not needed. `labels` are what is said of the groups. The
    rest is for whoever declares it (`contracts.extras`, `contracts.remembering`, `training.trust`), None for others.
    """

    tokens: Float[Array, "b r t"]
    mask: Bool[Array, "b r t"]
    last: Float[Array, "b r"] | None
    anchor: Float[Array, "b r"] | None
    labels: Labels
    log_sum_p2: Float[Array, "b r t"] | None = None
    anchor_tokens: Float[Array, "b r t"] | None = None
    stray: Float[Array, " b"] | None = None
    edited: Int[Array, "b r t"] | None = None
    weight: Float[Array, " b"] | None = None
    memory: dict[str, Float[Array, " b"]] | None = None
    last_tokens: Float[Array, "b r t"] | None = None

    def __post_init__(self) -> None:
        widen(self)

    @property
    def prefer(self) -> Float[Array, " b"]:
        """Probability that response 0 is preferred to response 1."""
        return self.labels.prefer

    @property
    def win(self) -> Float[Array, "b r"]:
        """Each response's probability to beat the policy that sampled it. Raises DataError where nothing says it."""
        return _given(self.labels.win, "win rates", "labels of one annotator alone, or of responses not sampled")

    @property
    def score(self) -> Float[Array, "b r"]:
        """Each response's scalar score. Raises DataError where the oracle gives none."""
        return _given(self.labels.score, "scores", "the oracle compares and scores nothing, or one annotator is alone")

    @property
    def sums(self) -> Float[Array, "b r"]:
        """Response log-probs, nats, summed in fp32."""
        return jax.numpy.where(self.mask, self.tokens, 0.0).sum(-1, dtype=jax.numpy.float32)

    @property
    def lengths(self) -> Int[Array, "b r"]:
        """Scored tokens of each response."""
        return self.mask.sum(-1)


def _given(values: Float[Array, "b r"] | None, what: str, why: str) -> Float[Array, "b r"]:
    if values is None:
        raise DataError(f"the loss reads {what} and there are none: {why}")
    return values


# --------------------------------------------------------------------------------------------------------------
# Contracts


@runtime_checkable
class Loss(Protocol):
    """GroupLogps → Float[b], unreduced. `needs` names the references whose sums it reads ("last", "anchor")."""

    @property
    def needs(self) -> tuple[str, ...]: ...

    def __call__(self, logps: GroupLogps) -> Float[Array, " b"]: ...


@runtime_checkable
class Reference(Protocol):
    """How the policies a loss compares with are kept: as stored log-prob columns, or as parameters in the step."""

    def stored(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Which of the roles in `needs` have their log-prob sums computed before the fit and stored."""
        ...

    def live(self, needs: Iterable[str]) -> tuple[str, ...]:
        """Which of the roles in `needs` have their parameters passed to the step."""
        ...


@runtime_checkable
class Combiner(Protocol):
    """Gram matrix H_ij = ⟨g_i, g_j⟩ of the objectives' gradients → a; the step follows Σ a_i g_i. Traced, in fp32.

    `objectives` is how many there are: the oracle's annotators, in their order. None: what the oracle says of all
    together is the only one, and its gradient is followed as it is.
    """

    @property
    def objectives(self) -> int | None: ...

    def __call__(self, gram: Float[Array, "o o"]) -> Float[Array, " o"]: ...


@runtime_checkable
class Schedule(Protocol):
    """Learning rate over one iteration's fit, or over a run (`Fit.schedule`)."""

    def schedule(self, steps: int) -> optax.Schedule:
        """Step (from 0) → learning rate, over `steps` steps."""
        ...


@runtime_checkable
class Optimizer(Protocol):
    """How one iteration's objective is descended."""

    def build(self, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """What makes updates of gradients, and its learning rate for the log, over the `steps` steps of a schedule.

        Every update is told the schedule's `step` among optax's extra arguments (`optim.downhill` reads it); what
        counts by itself restarts with its state.
        """
        ...


@runtime_checkable
class Sampler(Protocol):
    """(logits [b v], keys [b]) → tokens [b]; each row has its own key, so a row's draw is its own affair."""

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]: ...


@runtime_checkable
class Oracle(Protocol):
    """(rollouts, key) → Preferences. Pure, prompt by prompt: what is said of one is a function of it, of its responses
    and of the key (folded with its id where something is drawn), whichever prompts are judged beside it."""

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences: ...


@runtime_checkable
class Pairing(Protocol):
    """(rollouts, preferences, key) → Groups."""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups: ...


@runtime_checkable
class Reads(Protocol):
    """A component that reads files, one of your own too: its settings name them, but do not say what is in them.
    `files` are those that decide what it answers, by names that stay the same wherever the files lie. A run pins their
    content at its first launch and refuses another content later."""

    def files(self) -> Mapping[str, str | os.PathLike[str]]: ...


@runtime_checkable
class Dated(Protocol):
    """A component whose answers depend on the day: `dated` is the same for which it is always `date`. A run gives it
    the day of its first launch, so that continued tomorrow it ends with the same bits."""

    def dated(self, date: datetime.date) -> Any: ...


StopRequested = Callable[[], bool]
