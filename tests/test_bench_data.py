"""The benchmark of preference data measures what it says: every pair written, tokenised and taken."""

import json
import pathlib
from functools import partial

import numpy as np
import pytest
from made_comparisons import read

from jaxalign.bench import data
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.comparisons.store import Store
from jaxalign.data.tables.file import File
from jaxalign.errors import ModelError
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.model import Model
from jaxalign.training.rows import RowShape, row_shape


def smollm2() -> Model:
    try:
        return data.Narrow().open()
    except ModelError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_the_pairs_that_are_written_are_tokenised_and_taken(tmp_path: pathlib.Path):
    chat = smollm2().chat
    data.write(tmp_path / "pairs.jsonl", 70)
    found = read(Pairs(File(str(tmp_path / "pairs.jsonl"))))
    assert len({json.dumps(one.answers) for one in found}) == 70
    trained = data.measured(partial(data.train, tmp_path, 2))
    assert 0 < trained["peak_gib"] < 64
    assert trained["pairs_per_s"] > 0
    assert data.iterate(tmp_path) == {"taken": 70}
    store = Store(data.stored_in(tmp_path), "pairs")
    assert row_shape(store) == RowShape.longest(data.PROMPT, data.ANSWER)
    short = np.flatnonzero(store.lengths[:, 0] < data.ANSWER)
    assert len(short) > 40
    taken = store.take(short)
    said = [
        chat.decode(ids[:length].tolist()) for ids, length in zip(taken.tokens[:, 0], taken.lengths[:, 0], strict=True)
    ]
    assert said == [found[number].answers[0] for number in short]


@pytest.mark.parametrize("count", [200, pytest.param(600, marks=pytest.mark.slow)])
def test_rows_are_as_wide_whatever_the_number_of_pairs(count: int, tmp_path: pathlib.Path):
    machine = Machine(smollm2(), Placement(mesh=MeshShape(fsdp=1)), 0)
    data.write(tmp_path / "pairs.jsonl", count)
    groups = data.recorded(tmp_path, 2).open(machine, tmp_path, 1).groups(0)
    assert len(groups) == 2 * data.TRAINED
    assert row_shape(groups) == RowShape.longest(data.PROMPT, data.ANSWER)
