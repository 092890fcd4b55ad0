"""What a plan is of: an experiment on the devices of a topology that is not here, opened as far as no weights go."""

import dataclasses
import datetime
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import jax

from jaxalign.contracts.extras import extras_of
from jaxalign.errors import ConfigError, ModelError, first_line
from jaxalign.experiment import Experiment
from jaxalign.formats.huggingface import folder
from jaxalign.formats.weights import Place
from jaxalign.machine import Machine
from jaxalign.models.decoder import DecoderConfig
from jaxalign.models.lora import LoRA
from jaxalign.models.model import Model, Source, split
from jaxalign.models.pretrained import Pretrained
from jaxalign.plan import gpu
from jaxalign.plan.chips import Topology
from jaxalign.plan.environment import environment
from jaxalign.training.rows import Sizes
from jaxalign.types import Params

QUIET = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""What libtpu otherwise asks a TPU's host for; and several may compile on one machine."""


def sizes_of(experiment: Experiment, model: Model) -> Sizes:
    """The longest rows. Raises ConfigError for a policy that is a table, and where responses leave prompts no room."""
    if not isinstance(model.config, DecoderConfig):
        raise ConfigError("plan: the policy is a table; there is nothing to plan")
    sizes = experiment.feedback.sizes(model)
    if sizes.prompt < 1:
        context = model.config.context
        raise ConfigError(
            f"plan: the model's context of {context} less the {sizes.response} tokens of a response leaves prompts no "
            "room; lower max_tokens"
        )
    return sizes.strayed if "stray" in extras_of(experiment.loss) else sizes


def machine_of(experiment: Experiment, topology: Topology) -> Machine:
    """The experiment's machine on the devices of a topology. Raises ConfigError when its mesh is of other devices, and
    as `model_of` and `devices_of`."""
    shape = experiment.placement.mesh
    if topology.slices != shape.slices:
        raise ConfigError(f"plan: {topology.slices} slices, but placement.mesh.slices is {shape.slices}")
    sizes = [size for size in shape.sizes.values() if size != -1]
    rest, remainder = divmod(topology.devices, math.prod(sizes))
    if remainder or (len(sizes) == len(shape.sizes) and rest != 1):
        product = " · ".join(f"{axis} {size}" for axis, size in shape.sizes.items() if size != 1) or "one device"
        raise ConfigError(
            f"plan: {topology.name} has {topology.devices} devices, and placement.mesh is {product}: sizes must have "
            f"{topology.devices} for a product; one of them may be -1, for what the others leave"
        )
    return Machine(model_of(experiment.model), experiment.placement, experiment.seed, devices_of(topology))


def model_of(source: Source) -> Model:
    """The model, from its files where they are here and else from the shape that the experiment states.

    Raises ModelError where there is neither.
    """
    if isinstance(source, LoRA):
        return dataclasses.replace(source, base=Described(source.base)).open()
    return Described(source).open()


@dataclasses.dataclass(frozen=True)
class Described:
    """A source that can do without its files."""

    source: Source

    def open(self) -> Model:
        """The model, which cannot be loaded unless its files are here."""
        source = self.source
        if not isinstance(source, Pretrained) or folder(source.path).exists():
            return source.open()
        if source.shape is None:
            raise ModelError(f"{source.path}: not here, and the experiment states no `shape` to plan with")
        config = dataclasses.replace(source.shape, compute_dtype=source.compute_dtype)
        for problem in config.problems():
            raise ModelError(f"model.shape: {problem}")
        return split(config, Unspoken(config.vocab), f"{source.path} (its shape)", absent)


def absent(shapes: Params, place: Place) -> NoReturn:
    """Raises ModelError: plans compile from shapes."""
    raise ModelError("a model that is only described has no weights to load")


@dataclasses.dataclass(frozen=True)
class Unspoken:
    """The conversation of a model whose tokenizer is not here: an end of turn, and no words."""

    vocab: int
    pad: int = 0
    stop: tuple[int, ...] = (0,)

    @property
    def fingerprints(self) -> dict[str, str]:
        return {}

    def dated(self, date: datetime.date) -> "Unspoken":
        return self

    def encode(self, messages: Any, tools: Any = None) -> list[int]:
        raise ModelError("a model that is only described has no tokenizer")

    def decode(self, ids: Any) -> str:
        raise ModelError("a model that is only described has no tokenizer")


@contextmanager
def quiet() -> Iterator[None]:
    """Libtpu compiles without looking for a TPU, and without its warnings."""
    with environment(QUIET), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def version_of(package: str) -> str:
    """Of an installed package; "" where it is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def devices_of(topology: Topology) -> list[jax.Device]:
    """The devices of a topology. Raises ConfigError with the command to install its compiler where that is absent."""
    from jax.experimental import topologies

    if topology.generation in gpu.generations():
        return gpu.devices(topology)
    try:
        with quiet():
            found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **topology.arguments)
    except Exception as error:  # the plugin's own kinds
        if "libtpu" in str(error) or isinstance(error, (ImportError, NotImplementedError)):
            raise ConfigError(
                f"plan: compiling for {topology.name} takes the TPU compiler: pip install 'jaxalign[plan]' ({error})"
            ) from error
        raise ConfigError(
            f"plan: libtpu {version_of('libtpu')} cannot compile for {topology.name}: {first_line(error)}; a newer one "
            "may: pip install -U libtpu"
        ) from error
    return list(found.devices)
