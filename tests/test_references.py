"""References: every policy that a loss needs is kept in one way, and none that it does not need."""

import dataclasses

import pytest
from made_examples import examples, named

import jaxalign.references
from jaxalign.types import Reference

REFERENCES = examples(jaxalign.references, Reference, least=2)


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=named)
@pytest.mark.parametrize("needs", [(), ("last",), ("anchor",), ("last", "anchor")])
def test_what_is_needed_is_stored_or_live(reference, needs):
    assert sorted((*reference.stored(needs), *reference.live(needs))) == sorted(needs)


@pytest.mark.parametrize("reference", REFERENCES.values(), ids=named)
def test_equal_references_are_equal_values(reference):
    twin = dataclasses.replace(reference)
    assert (twin, hash(twin)) == (reference, hash(reference))
    assert list(getattr(reference, "problems", list)()) == []
