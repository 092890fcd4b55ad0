"""Low-rank adapters as PEFT keeps them: adapter_config.json and adapter_model.safetensors.

An adapter adds (alpha / rank) · B A to a matrix W [out, in], with A [rank, in] and B [out, rank] (Hu et al. 2021,
2106.09685, eq. 3). PEFT names the two after the module whose weight they change:
base_model.model.<module>.lora_A.weight and base_model.model.<module>.lora_B.weight. A head of outputs, which is trained
whole, is one of its "modules to save" and keeps its name.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from jaxalign.errors import ModelError
from jaxalign.exchange.export import appearing
from jaxalign.formats import safetensors_stream
from jaxalign.formats.native import DTYPES
from jaxalign.formats.weights import all_finite, leaf
from jaxalign.models.low_rank import is_low_rank, is_whole
from jaxalign.models.model import Exportable, Model
from jaxalign.types import Params

PREFIX, WEIGHT = "base_model.model.", ".weight"
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"

Factors = tuple[Float[np.ndarray, "rank in"], Float[np.ndarray, "out rank"]]
"""A and B."""
Adapter = Mapping[str, Factors]
"""By the Hugging Face name of the weight that they change ("model.layers.0.mlp.up_proj.weight"), shaped as there."""
Saved = Mapping[str, np.ndarray]
"""Weights that are trained whole, by the same names."""


def export_adapter(
    factors: Adapter,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    directory: str | os.PathLike[str],
    base_name: str,
    dtype: str = "float32",
    saved: Saved = MappingProxyType({}),
) -> None:
    """Writes an adapter to a new `directory`, from which PEFT loads it.

    `targets` are the ends of the names of its modules ("q_proj"): PEFT adapts every module that ends so. `base_name`
    is where PEFT finds the base model. Raises ModelError when a factor is of no such module, not of this rank or has
    values that are not finite, there is something in the directory, or the disk refuses.
    """
    target = pathlib.Path(directory)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(f"{target}: is there already and not an empty directory")
    arrays = {**named(factors, rank, targets, dtype), **whole(saved, dtype)}
    try:
        with appearing(target) as temporary:
            shapes = {name: array.shape for name, array in arrays.items()}
            safetensors_stream.write(temporary / TENSORS, DTYPES[dtype], shapes, iter(arrays.values()))
            content = json.dumps(config(rank, alpha, targets, base_name, modules(saved)), indent=2)
            (temporary / CONFIG).write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{target}: cannot be written: {error}") from error


def named(factors: Adapter, rank: int, targets: Sequence[str], dtype: str) -> dict[str, np.ndarray]:
    """The factors by PEFT's names, in the order of names, cast to `dtype`."""
    if dtype not in DTYPES:
        raise ModelError(f"adapter dtype {dtype!r}; known are {', '.join(DTYPES)}")
    found: dict[str, np.ndarray] = {}
    for name, (a, b) in sorted(factors.items()):
        if not name.endswith(tuple(f".{target}{WEIGHT}" for target in targets)):
            raise ModelError(f"adapter of {name!r}: not the weight of one of {', '.join(targets)}")
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != rank or b.shape[1] != rank:
            raise ModelError(f"adapter of {name!r}: A is {a.shape} and B {b.shape}, which is not rank {rank}")
        for letter, array in (("A", a), ("B", b)):
            found[f"{PREFIX}{name.removesuffix(WEIGHT)}.lora_{letter}{WEIGHT}"] = cast(array, dtype, name, letter)
    return found


def whole(saved: Saved, dtype: str) -> dict[str, np.ndarray]:
    """Weights that are trained whole by PEFT's names, cast to `dtype`."""
    return {f"{PREFIX}{name}": cast(array, dtype, name, "it") for name, array in sorted(saved.items())}


def cast(array: np.ndarray, dtype: str, name: str, what: str) -> np.ndarray:
    """Raises ModelError for values that do not fit."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(array.astype(DTYPES[dtype]))
    if not all_finite(found):
        raise ModelError(f"adapter of {name!r}: {what} has values that are not finite in {dtype}")
    return found


def modules(saved: Saved) -> list[str]:
    """Names of the modules whose weights are trained whole."""
    return sorted(name.removesuffix(WEIGHT).rpartition(".")[-1] for name in saved)


def config(
    rank: int, alpha: float, targets: Sequence[str], base_name: str, saved: Sequence[str] = ()
) -> dict[str, object]:
    """The fields of adapter_config.json; modules that are trained whole are those of a sequence classifier."""
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if saved else "CAUSAL_LM",
        "modules_to_save": list(saved) or None,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(targets),
    }


def factors(model: Model, params: Params) -> tuple[Adapter, int, float, Saved]:
    """The low-rank differences of a policy as files have them, their rank and alpha, and what is trained whole.

    Raises ModelError when the policy has no difference.
    """
    found: dict[str, Factors] = {}
    saved: dict[str, np.ndarray] = {}
    rank, alpha = 0, 0.0
    for tensor in model.config.tensors() if isinstance(model.config, Exportable) else ():
        each = leaf(params, tensor.path)
        if is_whole(each):
            saved[tensor.hf] = tensor.to_file(np.asarray(each.value))
        if not is_low_rank(each):
            continue
        rank, alpha = each.a.shape[-1], each.scale * each.a.shape[-1]
        for at in np.ndindex(*each.shape[: tensor.stacked]):
            a, b = np.asarray(each.a[at]), np.asarray(each.b[at])
            # PEFT has A as [rank, in] and B as [out, rank]
            found[tensor.hf.format(*at)] = (a.reshape(-1, rank).T, b.reshape(rank, -1).T)
    if not found:
        raise unadapted(model)
    return found, rank, alpha, saved


def unadapted(model: Model) -> ModelError:
    """The error of a model without low-rank differences that is asked for its adapter."""
    return ModelError(f"{model.source}: nothing is adapted, so there is no adapter; export it without --adapter")


def export_policy(
    model: Model, params: Params, directory: str | os.PathLike[str], base_name: str, dtype: str = "float32"
) -> None:
    """Writes the low-rank differences of an adapted policy as `export_adapter` does."""
    found, rank, alpha, saved = factors(model, params)
    targets = sorted({name.removesuffix(WEIGHT).rpartition(".")[-1] for name in found})
    export_adapter(found, rank, alpha, targets, directory, base_name, dtype, saved)
