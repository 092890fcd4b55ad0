"""What contract tests run on is found by itself, and what is left out is missed."""

import dataclasses
from types import ModuleType

import pytest
from made_examples import examples

from jaxalign.types import Pairing, Sampler

SOURCE = """
import dataclasses

@dataclasses.dataclass(frozen=True)
class Mine:
    def __call__(self, logits, keys): ...

@dataclasses.dataclass(frozen=True)
class OfFiles(Mine):
    path: str
"""


def module(more: str) -> ModuleType:
    made = ModuleType("mine")
    exec(SOURCE + more, vars(made))
    return made


@pytest.mark.parametrize("naming", ["EXAMPLE = Mine()", "EXAMPLES = (Mine(),)"])
def test_an_example_is_found_and_belongs_to_the_contract_it_is_called_by(naming):
    given = module(naming)
    assert [type(example).__name__ for example in examples(given, Sampler, least=1).values()] == ["Mine"]
    assert examples(given, Pairing, least=0) == {}
    assert dataclasses.is_dataclass(given.OfFiles)  # it reads files, and so needs no example


@pytest.mark.parametrize(
    ("naming", "least", "missing"),
    [("", 0, "mine: no EXAMPLE of Mine"), ("EXAMPLE = OfFiles('x')", 0, "of Mine"), ("EXAMPLE = Mine()", 2, "only")],
)
def test_what_has_no_example_is_missed(naming, least, missing):
    with pytest.raises(AssertionError, match=missing):
        examples(module(naming), Sampler, least)
