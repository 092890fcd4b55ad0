"""The families of models there are.

A family is one module of `jaxalign.models.families` that defines `FAMILY`. Nothing else is edited to add one: the
modules are searched, and the import is the registry.
"""

import dataclasses
import functools
import importlib
import pkgutil

from jaxalign.errors import ModelError
from jaxalign.models import families as modules
from jaxalign.models.decoder import DecoderConfig, Family, InGguf
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.hf_outputs import names_of


@functools.cache
def families() -> tuple[Family, ...]:
    """Every family there is, by name of its module."""
    names = sorted(found.name for found in pkgutil.iter_modules(modules.__path__))
    return tuple(importlib.import_module(f"{modules.__name__}.{name}").FAMILY for name in names)


def config_of_hf(fields: HfFields) -> DecoderConfig:
    """The config of a config.json, by the family that answers to its model_type."""
    known = {family.model_type: family for family in families()}
    family = known.get(fields.model_type)
    if family is None:
        raise ModelError(
            f"{fields.file}: model_type {fields.model_type!r} is not supported; known are {', '.join(sorted(known))}"
        )
    config = dataclasses.replace(family.from_hf(fields), outputs=names_of(fields))
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
