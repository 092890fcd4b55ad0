"""The metadata of one GGUF file under its architecture's name, each field read by name; the rest is refused."""

from typing import Any

import numpy as np

from jaxalign.errors import ModelError
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.weights import Tensor
from jaxalign.models.hf_fields import LARGEST


class GgufFields:
    """Fields "<architecture>.<name>" of a file, and what its tensors say of the shape. Methods raise ModelError."""

    def __init__(self, file: GgufFile):
        self.file, self.path = file, file.path
        self.architecture: str = file.field("general.architecture", str)
        self.asked: set[str] = set()

    def full(self, name: str) -> str:
        """A key as the file has it: with the architecture in front."""
        return f"{self.architecture}.{name}"

    def read(self, name: str, kind: type, default: Any = None) -> Any:
        """A value of type `kind`; `default` stands for a field that is absent."""
        self.asked.add(name)
        value = self.file.field(self.full(name), kind, default)
        if kind is int and not -LARGEST <= value <= LARGEST:
            raise self.fail(name)
        if kind is not float:
            return value
        with np.errstate(over="ignore"):
            found = np.float32(value)
        if not np.isfinite(found):
            raise self.fail(name)
        return float(str(found))  # stored as fp32: its shortest decimal is the number that was meant

    def present(self, name: str) -> bool:
        """Whether the file has the field."""
        return self.full(name) in self.file.fields

    def fixed(self, name: str, *known: Any) -> None:
        """Refuses the field unless it is absent or one of the values for which the family computes it."""
        self.asked.add(name)
        if self.present(name) and self.file.fields[self.full(name)] not in known:
            raise self.fail(name)

    def fail(self, name: str) -> ModelError:
        """The error that names the file, the field and its value."""
        name = self.full(name)
        return ModelError(f"{self.path}: {name} = {self.file.fields.get(name)!r:.60} is not supported")

    def holds(self, tensor: str) -> bool:
        """Whether the file has the tensor."""
        return tensor in self.file.tensors

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Shape of a tensor, outermost axis first. Raises ModelError where it is missing."""
        if not self.holds(tensor):
            raise ModelError(f"{self.path}: tensor {tensor!r} is missing")
        return self.file.shapes()[tensor]

    def values(self, tensor: str) -> np.ndarray:
        """A small tensor that belongs to the config."""
        return self.file.read(tensor, Tensor((tensor,), tensor, tensor))

    def close(self) -> None:
        """Refuses a field of the architecture that nobody asked for."""
        for name in self.file.fields:
            short = name.removeprefix(f"{self.architecture}.")
            if short != name and short not in self.asked:
                raise self.fail(short)
