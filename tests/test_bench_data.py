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
from jaxalign.models.pretrained import SmolLM2


def test_the_pairs_that_are_written_are_tokenised_and_taken(tmp_path: pathlib.Path):
    try:
        chat = SmolLM2().open().chat
    except ModelError as error:
        pytest.skip(str(error))
    data.write(tmp_path / "pairs.jsonl", 70)
    found = read(Pairs(File(str(tmp_path / "pairs.jsonl"))))
    assert len({json.dumps(one.answers) for one in found}) == 70
    trained = data.measured(partial(data.train, tmp_path, 2))
    assert 0 < trained["peak_gib"] < 64
    assert trained["pairs_per_s"] > 0
    assert data.iterate(tmp_path) == {"taken": 70}
    taken = Store(data.stored_in(tmp_path), "pairs").take(np.arange(70))
    said = [
        chat.decode(ids[:length].tolist()) for ids, length in zip(taken.tokens[:, 0], taken.lengths[:, 0], strict=True)
    ]
    assert said == [one.answers[0] for one in found]
