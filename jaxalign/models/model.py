"""What the rest of the program knows of a model: pure functions of a nested dict of fp32 arrays, and its chat.

A family is a frozen config (`Architecture`) that builds an NNX module. The module is split once, here; afterwards
parameters are plain nested dicts and every method is a pure function of them that can be jitted by its caller.

    a row            model.hidden(params, tokens, position, sight) -> hidden; hidden · model.head(params)ᵀ -> logits
    a continuation   model.prefill(params, …) -> hidden, cache
                     view = model.unstacked(params)              once, before the loop over tokens
                     model.decode(view, cache, …) -> hidden, cache
                     model.logits(view, hidden)                  of `view` or `params` alike
"""

import dataclasses
import datetime
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Folder, Place, Tensor
from jaxalign.mesh.layout import Layout
from jaxalign.mesh.sharding import Rules
from jaxalign.models.cache import Kind
from jaxalign.models.layers import is_variable
from jaxalign.models.low_rank import dense, is_adapted
from jaxalign.ops.attention import Progress, Shown, Sight, Tree
from jaxalign.ops.softcap import softcap
from jaxalign.types import Params

Cache = Any
"""Keys and values seen so far, in whatever form the family likes best: a PyTree."""


@runtime_checkable
class Architecture(Protocol):
    """A family's config: frozen, hashable. `output` names the parameter [v d] that scores the vocabulary.

    Scores z are softcap · tanh(z / softcap) where `softcap` is a number, in whatever computes log-probs from them.
    """

    @property
    def output(self) -> str: ...
    @property
    def context(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def compute_dtype(self) -> str: ...
    @property
    def softcap(self) -> float | None: ...
    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `output` [o d] scores the last token by; none where it scores the vocabulary."""
        ...

    def module(self, layout: Layout | None = None) -> Any: ...
    def keeping(self, remat: str) -> "Architecture":
        """The same config, whose backward pass keeps of a layer what the policy `remat` says. Raises ModelError for a
        policy that it does not know."""


@runtime_checkable
class Caching(Protocol):
    """A family that keeps the keys and values of what it decodes, and may keep them in fewer bits."""

    def caching(self, kind: Kind) -> Architecture: ...


@runtime_checkable
class Exportable(Protocol):
    """A family that Hugging Face knows too."""

    def tensors(self) -> tuple[Tensor, ...]: ...
    def to_hf(self) -> dict[str, Any]: ...


@runtime_checkable
class Conversation(Protocol):
    """Messages to tokens and back; `stop` are the ids that end a turn.

    `fingerprints` say by name what decides the ids, but for the date that templates may ask for: `dated` fixes it.
    """

    @property
    def stop(self) -> tuple[int, ...]: ...
    @property
    def pad(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def fingerprints(self) -> Mapping[str, str]: ...
    def dated(self, date: datetime.date) -> "Conversation": ...
    def encode(self, messages: Any, tools: Any = None) -> list[int]: ...
    def decode(self, ids: Any) -> str: ...


@runtime_checkable
class Source(Protocol):
    """A config's way to name a model. `open` reads and checks everything but the tensors (ModelError)."""

    def open(self) -> "Model": ...


def on_default_device(path: tuple[str, ...]) -> None:
    """Where everything lies when nobody says a place: None, JAX's default device."""


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """One model, opened. `axes` has the structure of the parameters, with a tuple of logical axis names per leaf.

    Two are equal that compute the same function of their parameters, wherever these come from and whoever talks.
    """

    config: Architecture
    chat: Conversation
    source: str
    graphdef: Any
    stepper: Any
    shapes: Params
    axes: Params
    read: Callable[[Params, Place], Params]
    dropout: float = 0.0
    """share of input features that low-rank differences do not see in a training step"""
    layout: Layout | None = None
    """how its arrays lie on a mesh; None: on one device, or as XLA likes"""
    files: Mapping[str, Folder] = dataclasses.field(default_factory=dict)
    """by name, the files whose bytes decide what `load` gives; none where nothing is read"""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Model):
            return NotImplemented
        return self._function == other._function and self._trees == other._trees

    def __hash__(self) -> int:
        return hash(self._function)

    @property
    def _function(self) -> tuple[Any, ...]:
        """What its methods depend on besides shapes and axes, which are dicts."""
        return type(self), self.config, self.layout, self.dropout, self.graphdef, self.stepper

    @property
    def _trees(self) -> tuple[list[Any], Any]:
        return jax.tree.flatten((self.shapes, self.axes))

    @property
    def fingerprints(self) -> dict[str, str]:
        """What decides its programs and tokens, by name: the fields of config.json, tokenizer, template and ids."""
        fields = self.config.to_hf() if isinstance(self.config, Exportable) else {}
        return {**{name: json.dumps(value) for name, value in fields.items()}, **self.chat.fingerprints}

    def dated(self, date: datetime.date) -> "Model":
        """The same, whose chat template finds it to be `date` whenever it asks."""
        return dataclasses.replace(self, chat=self.chat.dated(date))

    def on(self, mesh: jax.sharding.Mesh, rules: Rules, remat: str = "none") -> "Model":
        """The same model, whose programs run on a mesh and keep what `remat` says of each layer."""
        # The one device of this process needs no layout: XLA puts everything there by itself.
        here = mesh.size == 1 and mesh.devices.flat[0].platform == jax.default_backend()
        layout = None if here else Layout(mesh, rules)
        config = self.config.keeping(remat)
        graphdef, stepper = definitions(config, layout)
        return dataclasses.replace(self, config=config, graphdef=graphdef, stepper=stepper, layout=layout)

    def caching(self, kind: Kind) -> "Model":
        """The same model, whose `prefill` and `decode` keep keys and values so. Raises ModelError for a family that
        keeps none, or knows no other kind than "exact"."""
        if kind == "exact":
            return self
        if not isinstance(self.config, Caching):
            raise ModelError(f"{self.source}: a {type(self.config).__name__} has no cache to keep as {kind}")
        config = self.config.caching(kind)
        graphdef, stepper = definitions(config, self.layout)
        return dataclasses.replace(self, config=config, graphdef=graphdef, stepper=stepper)

    def load(self, place: Place = on_default_device) -> Params:
        """The source's parameters, fp32, each made where `place` says that it is kept."""
        return self.read(self.shapes, place)

    def computing(self, params: Params) -> Params:
        """Parameters that nothing trains, with matrices in the compute dtype: every layer reads them so anyway, and the
        results are the same. Low-rank differences stay as they are; they are added in fp32."""
        if is_adapted(params):
            return params
        dtype = jnp.dtype(self.config.compute_dtype)

        def cast(leaf: Any, names: tuple[str | None, ...]) -> Any:
            matrix = len([name for name in names if name != "layers"]) > 1
            return leaf.astype(dtype) if matrix else leaf

        return jax.tree.map(cast, params, self.axes)

    def abstract(self) -> Params:
        """Shapes and dtypes of the fp32 masters."""
        return self.shapes

    def hidden(
        self,
        params: Params,
        tokens: Int[Array, "n s"],
        position: Int[Array, "n s"],
        sight: Tree | Bool[Array, "n s s"],
    ) -> Float[Array, "n s d"]:
        """Final hidden states (normalised, compute dtype). In a mask for `sight`, [n, i, j]: token i sees token j."""
        return nnx.merge(self.graphdef, params).hidden(tokens, position, seen(sight, position))

    def head(self, params: Params) -> Float[Array, "v d"]:
        """The matrix that scores the vocabulary, or of a score model the last token [o d]; compute dtype, of `params`
        or of `unstacked(params)`."""
        return dense(params[self.config.output]).astype(self.config.compute_dtype)

    def logits(self, params: Params, hidden: Float[Array, "*rows d"]) -> Float[Array, "*rows v"]:
        """Scores, accumulated and returned in fp32, soft-capped where the family does so."""
        scores = jnp.einsum("...d,vd->...v", hidden, self.head(params), preferred_element_type=jnp.float32)
        return softcap(scores, self.config.softcap)

    def prefill(
        self,
        params: Params,
        tokens: Int[Array, "b p"],
        position: Int[Array, "b p"],
        sight: Tree | Bool[Array, "b p p"],
        rows: int,
        room: int,
    ) -> tuple[Float[Array, "b d"], Cache]:
        """Reads left-padded prompts: hidden state of the last column, and a cache in which `rows` rows may say `room`
        tokens each."""
        with jax.named_scope("prefill"):
            return nnx.merge(self.graphdef, params).prefill(tokens, position, seen(sight, position), rows, room)

    def unstacked(self, params: Params) -> Params:
        """The parameters as `decode` wants them: layers apart, compute dtype, low-rank differences added. A copy; make
        it once per call."""
        return nnx.to_pure_dict(nnx.state(nnx.merge(self.graphdef, dense(params)).unrolled()))

    def decode(
        self,
        view: Params,
        cache: Cache,
        tokens: Int[Array, " n"],
        progress: Progress,
    ) -> tuple[Float[Array, "n d"], Cache]:
        """One token for each row, its newest: `progress` says how far it is behind which prompt."""
        with jax.named_scope("decode"):
            return nnx.merge(self.stepper, view).decode(cache, tokens, progress)


def split(config: Architecture, chat: Conversation, source: str, read: Callable[[Params, Place], Params]) -> Model:
    """The model of `config`, split into definition and parameters without making any array.

    `read` makes the parameters from their shapes.
    """
    graphdef, stepper = definitions(config, None)
    state = nnx.state(nnx.eval_shape(config.module))
    axes = jax.tree.map(logical, state, is_leaf=is_variable)
    return Model(config, chat, source, graphdef, stepper, nnx.to_pure_dict(state), nnx.to_pure_dict(axes), read)


def definitions(config: Architecture, layout: Layout | None) -> tuple[Any, Any]:
    """Graph definitions of the module, and of what decodes with it."""
    module = partial(config.module, layout)
    return nnx.graphdef(nnx.eval_shape(module)), nnx.graphdef(nnx.eval_shape(lambda: module().unrolled()))


def seen(sight: Tree | Array, position: Int[Array, "n s"]) -> Sight:
    """A mask is one of the ways to say who sees whom."""
    return sight if isinstance(sight, Tree) else Shown(sight, position)


def logical(variable: nnx.Variable) -> tuple[str | None, ...]:
    """Names of a parameter's axes; what it was declared without is the stack of layers."""
    names = variable.get_metadata("logical")
    return ("layers",) * (len(variable.get_value().shape) - len(names)) + names
