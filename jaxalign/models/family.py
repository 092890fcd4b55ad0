"""Families of models: what each knows of its files, and which there are.

A family is one module of `jaxalign.models` that defines `FAMILY`. Nothing else is edited to add one: the modules are
searched, and the import is the registry.
"""

import functools
import importlib
import pkgutil
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxalign import models
from jaxalign.errors import ModelError
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.weights import Tensor

if TYPE_CHECKING:
    from jaxalign.models.decoder import DecoderConfig
else:
    DecoderConfig = Any
"""A config holds its family, so at run time only one of the two modules can import the other."""


@runtime_checkable
class Family(Protocol):
    """Reads and writes the configs of one kind of model. Frozen and hashable: it is part of a config."""

    @property
    def model_type(self) -> str:
        """What config.json calls it."""

    def from_hf(self, fields: HfFields) -> DecoderConfig:
        """The config of a config.json. Raises ModelError naming a field that is missing, mistyped or not supported."""

    def to_hf(self, config: DecoderConfig) -> dict[str, Any]:
        """The fields of config.json."""

    def tensors(self, config: DecoderConfig) -> tuple[Tensor, ...]:
        """Where each parameter lies in Hugging Face and GGUF files."""


@runtime_checkable
class InGguf(Protocol):
    """A family whose GGUF files are read too."""

    @property
    def architecture(self) -> str:
        """What GGUF calls it (general.architecture)."""

    def from_gguf(self, fields: GgufFields) -> DecoderConfig:
        """The config of a GGUF file's metadata. Raises ModelError as `Family.from_hf`."""


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family there is, by name of its module."""
    modules = (importlib.import_module(f"{models.__name__}.{found.name}") for found in iterate())
    return tuple(vars(module)["FAMILY"] for module in modules if "FAMILY" in vars(module))


def iterate() -> list[pkgutil.ModuleInfo]:
    return sorted(pkgutil.iter_modules(models.__path__), key=lambda found: found.name)


def config_of_hf(fields: HfFields) -> DecoderConfig:
    """The config of a config.json, by the family that answers to its model_type."""
    known = {family.model_type: family for family in families()}
    family = known.get(fields.model_type)
    if family is None:
        raise ModelError(
            f"{fields.file}: model_type {fields.model_type!r} is not supported; known are {', '.join(sorted(known))}"
        )
    config = family.from_hf(fields)
    fields.close()
    return config


def config_of_gguf(fields: GgufFields) -> DecoderConfig:
    """The config of a GGUF file, by the family that answers to its general.architecture."""
    known = {family.architecture: family for family in families() if isinstance(family, InGguf)}
    family = known.get(fields.architecture)
    if family is None:
        raise ModelError(
            f"{fields.path}: general.architecture {fields.architecture!r} is not supported; "
            f"known are {', '.join(sorted(known))}"
        )
    config = family.from_gguf(fields)
    fields.close()
    return config
