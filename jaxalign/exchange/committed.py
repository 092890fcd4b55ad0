"""Policies as a run has committed them, exported on one host: neither the run's mesh nor its training data is opened.

One part of one parameter (a layer, a matrix of an expert) at a time is in memory, as `export` asks for it. Of an
adapted model a run holds the differences alone: the base comes from the model's own files, and is rounded or quantised
part by part as it was where the run kept it.
"""

import os
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from jaxalign.errors import ModelError
from jaxalign.exchange import export, peft
from jaxalign.formats.weights import Reader, Stored, Tensor, leaf, part
from jaxalign.models.lora import Adapted
from jaxalign.models.low_rank import WHOLE, frozen, is_adapted, join, trained
from jaxalign.models.model import Model
from jaxalign.storage.rundir import PolicySlot
from jaxalign.storage.streamed import StreamedArrays

BLOCK = 4 * 2**20
"""Bytes of a matrix to which a difference is added at once."""


def export_policy(
    model: Model,
    slot: PolicySlot,
    directory: str | os.PathLike[str],
    dtype: str = "float32",
    shard_bytes: int = export.SHARD_BYTES,
) -> None:
    """As `export.export`, of a policy of `model` in a run directory. Raises CheckpointError when it is damaged."""
    export.write(model, values(model, slot), directory, dtype, shard_bytes)


def export_mean(
    policies: Sequence[tuple[Model, PolicySlot]],
    directory: str | os.PathLike[str],
    dtype: str = "float32",
    shard_bytes: int = export.SHARD_BYTES,
) -> None:
    """As `export_policy`, of the mean of the weights of several policies, each of a model of its own.

    Of fine-tunings from one start (the head included) it is about as good as their ensemble, and costs one model: Ramé
    et al. 2024, "WARM" (arXiv 2401.12187). ModelError for models that differ in anything but the weights.
    """
    first = policies[0][0]
    for model, _ in policies[1:]:
        if model.config != first.config or model.fingerprints != first.fingerprints:
            raise ModelError(f"{model.source} and {first.source} differ in more than weights: there is no mean of them")
    each = [values(model, slot) for model, slot in policies]
    export.write(first, partial(mean, each), directory, dtype, shard_bytes)


def mean(each: Sequence[export.Values], tensor: Tensor) -> Iterator[np.ndarray]:
    """The parts of a parameter, averaged in fp32; as many are in memory as there are policies, and the mean."""
    for parts in zip(*(values(tensor) for values in each), strict=True):
        yield np.asarray(np.mean(parts, axis=0, dtype=np.float32))


def export_adapter(
    model: Model, slot: PolicySlot, directory: str | os.PathLike[str], base_name: str, dtype: str = "float32"
) -> None:
    """As `peft.export_policy`, of a policy in a run directory. All differences are in memory at once."""
    if not is_adapted(model.abstract()):
        raise peft.unadapted(model)
    abstract = trained(model.abstract())
    params = join(slot.stream(abstract).tree(abstract), frozen(model.abstract()))
    peft.export_policy(model, params, directory, base_name, dtype)


def values(model: Model, slot: PolicySlot) -> export.Values:
    """The parameters of a policy of `model`, adapted or not."""
    arrays = slot.stream(trained(model.abstract()))
    if not isinstance(model.read, Adapted):
        return partial(committed, arrays)
    if not isinstance(model.read.model.read, Stored):
        raise ModelError(f"{model.source}: the parameters of its base are in no files")
    return partial(adapted, model.read, model.read.model.read.reader, arrays)


def committed(arrays: StreamedArrays, tensor: Tensor) -> Iterator[np.ndarray]:
    """The layers of a parameter as their files have them, read off the run one at a time."""
    return map(tensor.to_file, arrays.parts("/".join(tensor.path), tensor.stacked))


def adapted(adaptation: Adapted, base: Reader, arrays: StreamedArrays, tensor: Tensor) -> Iterator[np.ndarray]:
    """The layers of one tensor of a LoRA run: merged where it is adapted, the run's where it is trained whole, and else
    the base's."""
    if tensor in adaptation.chosen:
        return merged(adaptation, base, arrays, tensor)
    if tensor in adaptation.whole:
        return map(tensor.to_file, arrays.parts("/".join((*tensor.path, WHOLE)), tensor.stacked))
    return export.from_files(base, adaptation.model.shapes, tensor)


def merged(adaptation: Adapted, base: Reader, arrays: StreamedArrays, tensor: Tensor) -> Iterator[np.ndarray]:
    """Each layer of the base with its low-rank difference added, one layer in memory."""
    shape = leaf(adaptation.model.shapes, tensor.path).shape
    a, b = (arrays.parts("/".join((*tensor.path, letter)), tensor.stacked) for letter in "ab")
    for at in np.ndindex(*shape[: tensor.stacked]):
        matrix, inputs, outputs = part(base, tensor, shape[tensor.stacked :], at), next(a), next(b)
        for rows in blocks(matrix):  # in its place: what quantises takes the memory of several matrices
            matrix[rows] = adaptation.merged(matrix[rows], inputs[rows], outputs)
        yield tensor.to_file(matrix)
        del matrix


def blocks(matrix: np.ndarray) -> Iterator[slice]:
    """Rows of a matrix, some at a time. (Bases are quantised row by row, so they may be cut between any two.)

    A power of two divides the sizes of models: a product of few left-over rows would round otherwise than the whole.
    """
    step = 1 << max(1, BLOCK * len(matrix) // matrix.nbytes).bit_length() - 1
    return (slice(start, start + step) for start in range(0, len(matrix), step))
