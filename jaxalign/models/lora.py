"""LoRA and QLoRA as a model source: any other source, with low-rank differences on chosen matrices.

Hu et al. 2021 (arXiv 2106.09685); frozen base in bf16, int8 or NF4: Dettmers et al. 2023 (arXiv 2305.14314). The
reference policies of a run are the base with another iterate's differences, so references cost nothing but A and B, and
checkpoints hold A and B alone. The head of a score model is trained beside them, as it is.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Place, Stored, Tensor, leaf
from jaxalign.models.hf_outputs import SCORE
from jaxalign.models.low_rank import LowRank, Whole, is_adapted
from jaxalign.models.model import Exportable, Model, Source
from jaxalign.models.quantised import Kind, Quantised, quantise
from jaxalign.types import Params

BaseDtype = Literal["float32", "bfloat16", "int8", "nf4"]


@dataclasses.dataclass(frozen=True)
class LoRA:
    """A base whose weights stay, with trained low-rank differences."""

    base: Source
    """the model that is adapted"""
    rank: int = 16
    """inner dimension of the differences"""
    alpha: float = 32.0
    """the differences are multiplied by alpha / rank"""
    targets: tuple[str, ...] = ("blocks.attention.[qkvo]", "blocks.mlp.*")
    """patterns of what is adapted: our names (blocks.attention.q) or those of Hugging Face (q_proj)"""
    dropout: float = 0.0
    """share of input features the differences do not see in a training step"""
    base_dtype: BaseDtype = "float32"
    """what the adapted matrices of the base are kept in; nf4 is QLoRA's"""
    seed: int = 0
    """of A; B starts at zero"""

    def problems(self) -> Iterable[str]:
        if self.rank < 1:
            yield f"rank must be at least 1, got {self.rank}"
        if not self.alpha > 0:
            yield f"alpha must be positive, got {self.alpha}"
        if not 0 <= self.dropout < 1:
            yield f"dropout must lie in [0, 1), got {self.dropout}"
        if not self.targets:
            yield "targets must name at least one matrix"

    def open(self) -> Model:
        """The base with adapted parameters. Raises ModelError when a pattern fits nothing."""
        for problem in self.problems():
            raise ModelError(f"LoRA: {problem}")
        model = self.base.open()
        if is_adapted(model.abstract()):
            raise ModelError(f"{model.source}: is adapted already; LoRA has its own frozen base")
        return adapted(self, chosen_tensors(model, self.targets), model)


def adapted(settings: LoRA, chosen: tuple[Tensor, ...], model: Model) -> Model:
    """`model` with low-rank differences on the `chosen` matrices; nothing else but its head of outputs is trained."""
    build = Adapted(settings, chosen, (SCORE,) if model.config.outputs else (), model)
    return dataclasses.replace(
        model, shapes=jax.eval_shape(build.of_shapes), axes=build.axes(), read=build, dropout=settings.dropout
    )


def chosen_tensors(model: Model, targets: tuple[str, ...]) -> tuple[Tensor, ...]:
    """The matrices that the patterns name. ModelError for a pattern that fits none, and for models without names."""
    if not isinstance(model.config, Exportable):
        raise ModelError(f"{model.source}: LoRA needs a model with named matrices")
    matrices = [tensor for tensor in model.config.tensors() if tensor.inputs]
    for pattern in targets:
        if not any(fits(tensor, pattern) for tensor in matrices):
            known = ", ".join(sorted({".".join(tensor.path) for tensor in matrices}))
            raise ModelError(f"LoRA: target {pattern!r} fits none of the matrices {known}")
    return tuple(tensor for tensor in matrices if any(fits(tensor, pattern) for pattern in targets))


def fits(tensor: Tensor, pattern: str) -> bool:
    """Whether the pattern is the tensor's path here, its name in Hugging Face files, or that name's last word."""
    module = tensor.hf.removesuffix(".weight")
    return any(fnmatchcase(name, pattern) for name in (".".join(tensor.path), module, module.rpartition(".")[-1]))


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The parameters of an adapted model: how they look, how they are split, how they are made. `chosen` have low-rank
    differences, `whole` are trained as they are, `model` is the base."""

    settings: LoRA
    chosen: tuple[Tensor, ...]
    whole: tuple[Tensor, ...]
    model: Model

    def of_shapes(self) -> Params:
        """As a call makes them, out of zeros: for shapes."""
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), self.model.shapes)
        return self._each(zeros, lambda tensor, base: self._low_rank(tensor, base))

    def axes(self) -> Params:
        """Logical axes: A has the inputs' and B the outputs', and the rank is not split."""

        def names(tensor: Tensor, base: tuple[str, ...]) -> LowRank:
            lead, inputs, outputs = self._split(tensor, base)
            kept: Any = Quantised(base, base, self._kind) if self._kind else base
            return LowRank(kept, (*lead, *inputs, "rank"), (*lead, "rank", *outputs), self._scale)

        return self._each(self.model.axes, names)

    def __call__(self, shapes: Params, place: Place) -> Params:
        """The base, matrix after matrix in its dtype, with A drawn and B zero."""

        def base_place(path: tuple[str, ...]) -> Any:
            there: Any = place(path)
            kept = there.base if isinstance(there, LowRank) else there
            kept = kept.value if isinstance(kept, Whole) else kept
            return kept.codes if isinstance(kept, Quantised) else kept

        stored = self.model.read
        if not isinstance(stored, Stored):
            params = stored(self.model.shapes, base_place)
            return self._each(params, lambda tensor, base: self._placed(tensor, base, place))
        names = {tensor.path for tensor in self.chosen}
        rest = tuple(tensor for tensor in stored.tensors if tensor.path not in names)
        params = dataclasses.replace(stored, tensors=rest)(self.model.shapes, base_place)
        for tensor in self.chosen:
            # One at a time: a base in four bits is for machines that the whole in fp32 does not fit.
            one = dataclasses.replace(stored, tensors=(tensor,))(self.model.shapes, base_place)
            put(params, tensor.path, self._placed(tensor, leaf(one, tensor.path), place))
        return self._marked(params)

    def merged(self, base: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Rows of one part (a layer's, an expert's) of a policy: the source's as the base keeps them, difference added.

        Two programs, as where parameters lie on a device: one would round otherwise here and there.
        """
        return np.asarray(_sum(LowRank(self._kept(base), a, b, self._scale)))

    def _kept(self, base: Any) -> Any:
        """A matrix of the base, or a part of one, in the dtype that it is kept in."""
        return _quantised(base, self._kind) if self._kind else base.astype(jnp.dtype(self.settings.base_dtype))

    @property
    def _kind(self) -> Kind | None:
        """How the base is quantised, if it is."""
        dtype = self.settings.base_dtype
        return dtype if dtype == "int8" or dtype == "nf4" else None

    @property
    def _scale(self) -> float:
        return self.settings.alpha / self.settings.rank

    def _placed(self, tensor: Tensor, base: jax.Array, place: Place) -> LowRank:
        there: Any = place(tensor.path)
        make = jax.jit(lambda base: self._low_rank(tensor, base), out_shardings=there)
        return make(base)

    def _low_rank(self, tensor: Tensor, base: jax.Array) -> LowRank:
        rank = self.settings.rank
        lead, inputs, outputs = self._split(tensor, base.shape)
        key = jax.random.fold_in(jax.random.key(self.settings.seed), zlib.crc32(".".join(tensor.path).encode()))
        spread = 1.0 / math.sqrt(math.prod(inputs))
        a = spread * jax.random.normal(key, (*lead, *inputs, rank), jnp.float32)
        return LowRank(self._kept(base), a, jnp.zeros((*lead, rank, *outputs), jnp.float32), self._scale)

    def _split(self, tensor: Tensor, axes: tuple[Any, ...]) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
        """Leading axes, those summed over, those produced."""
        assert tensor.inputs is not None
        inputs = tensor.stacked + tensor.inputs
        return axes[: tensor.stacked], axes[tensor.stacked : inputs], axes[inputs:]

    def _each(self, params: Params, make: Callable[[Tensor, Any], LowRank]) -> Params:
        """A copy of the tree, with the chosen leaves replaced and those that are trained as they are marked."""
        found = jax.tree.map(lambda each: each, params, is_leaf=lambda node: isinstance(node, tuple))
        for tensor in self.chosen:
            put(found, tensor.path, make(tensor, leaf(params, tensor.path)))
        return self._marked(found)

    def _marked(self, params: Params) -> Params:
        for tensor in self.whole:
            put(params, tensor.path, Whole(leaf(params, tensor.path)))
        return params


_quantised = jax.jit(quantise, static_argnames="kind")
_sum = jax.jit(LowRank.dense)


def put(params: Params, path: tuple[str, ...], value: Any) -> None:
    """Sets the leaf at `path`."""
    branch = params
    for step in path[:-1]:
        branch = branch.setdefault(step, {})
    branch[path[-1]] = value
