"""Dimension letters, PyTrees and contracts: what the parts of a run hand to one another.

Dimension letters (every public array is annotated with them):

    b prompts, or groups in a batch     m samples per prompt        r responses in a training group
    n rows                              s row length                p prompt tokens
    t response tokens                   q scored tokens of a row    c cache length
    d model width                       v vocabulary                o objectives or annotators

Host data (prompts, rollouts, preferences, groups) are frozen dataclasses of NumPy arrays; what enters `jit`
(rows, log-probs, states) are frozen dataclasses registered as PyTrees by `pytree`.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, dataclass_transform, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

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


@dataclass_transform(frozen_default=True)
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


@dataclasses.dataclass(frozen=True)
class Preferences:
    """P(i beats j) for every ordered pair of a prompt's responses; `prefer` + its transpose = 1, diagonal 1/2.

    `by_annotator` keeps the annotators (or objectives) apart, in the order of `annotators`; `prefer` is their
    weighted mean. `scores` are the annotators' scalar scores where they have any, zeros otherwise.
    """

    annotators: tuple[str, ...]
    prefer: Float[np.ndarray, "b m m"]
    by_annotator: Float[np.ndarray, "o b m m"]
    scores: Float[np.ndarray, "o b m"]


@dataclasses.dataclass(frozen=True)
class Groups:
    """Training groups: `responses[g]` are indices among the m responses of prompt `prompt[g]`, chosen first.

    `prefer[g]` is the label: the probability that response 0 is preferred to response 1 (1.0 when the label is
    certain). `weight` is the group's share in the loss before normalisation. `win` is each response's estimated
    probability to beat the policy that sampled it, the weighted mean of its row of `prefer` (itself included at 1/2).
    """

    prompt: Int[np.ndarray, " g"]
    responses: Int[np.ndarray, "g r"]
    prefer: Float[np.ndarray, " g"]
    weight: Float[np.ndarray, " g"]
    win: Float[np.ndarray, "g r"]


# --------------------------------------------------------------------------------------------------------------
# Device data


@pytree
class Rows:
    """Token rows that are trees: a prompt is the trunk (branch 0), each response a branch (1 … r) of its group.

    A token attends to tokens of its own group with position <= its own whose branch is 0 or its own; `group` is
    -1 on padding. Position continues from the prompt in every branch. Scored tokens are listed: the log-prob of
    `target[n, q]` comes from the hidden state at `source[n, q]`, its predecessor in its own branch, and belongs
    to cell `slot[n, q]` of the flattened [b r t] table of response tokens (-1: padding).
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
    """Rows and what belongs to their b groups. `references` are stored log-prob sums [b r] by role (cached)."""

    rows: Rows
    mask: Bool[Anywhere, "b r t"]
    prefer: Float[Anywhere, " b"]
    weight: Float[Anywhere, " b"]
    win: Float[Anywhere, "b r"]
    references: dict[str, Float[Anywhere, "b r"]]


@pytree
class GroupLogps:
    """What a loss sees: log-probs (nats) of r responses in each of b groups; index 0 chosen, 1 rejected.

    `tokens` are the policy's per-token log-probs where `mask`; `last` and `anchor` are sums over tokens under the
    policy that sampled this iteration and under the anchor, `None` where the loss does not need them. `prefer` is the
    probability that response 0 is preferred to response 1, `win` each response's probability to beat the policy that
    sampled it.
    """

    tokens: Float[Array, "b r t"]
    mask: Bool[Array, "b r t"]
    last: Float[Array, "b r"] | None
    anchor: Float[Array, "b r"] | None
    prefer: Float[Array, " b"]
    win: Float[Array, "b r"]

    @property
    def sums(self) -> Float[Array, "b r"]:
        """Response log-probs, nats, summed in fp32."""
        return jax.numpy.where(self.mask, self.tokens, 0.0).sum(-1, dtype=jax.numpy.float32)

    @property
    def lengths(self) -> Int[Array, "b r"]:
        """Scored tokens of each response."""
        return self.mask.sum(-1)


# --------------------------------------------------------------------------------------------------------------
# Contracts


@runtime_checkable
class Loss(Protocol):
    """GroupLogps → Float[b], unreduced. `needs` names the references whose sums it reads ("last", "anchor")."""

    needs: ClassVar[tuple[str, ...]]

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
class Sampler(Protocol):
    """(logits [b v], keys [b]) → tokens [b]; each row has its own key, so a row's draw is its own affair."""

    def __call__(self, logits: Float[Array, "b v"], keys: Key[Array, " b"]) -> Int[Array, " b"]: ...


@runtime_checkable
class Oracle(Protocol):
    """(rollouts, key) → Preferences. Pure: the same rollouts and key give the same answer."""

    def __call__(self, rollouts: Rollouts, key: PRNGKeyArray) -> Preferences: ...


@runtime_checkable
class Pairing(Protocol):
    """(rollouts, preferences, key) → Groups."""

    def __call__(self, rollouts: Rollouts, preferences: Preferences, key: PRNGKeyArray) -> Groups: ...


StopRequested = Callable[[], bool]
