"""DPO on a config's own pairs beside TRL's trainer: our side, what the other side is handed, and what is told."""

import json
import math
import pathlib

import numpy as np
import pytest

from jaxalign.__main__ import main
from jaxalign.bench.pairs import asked_of, measured, told
from jaxalign.bench.trl import UNTIMED
from jaxalign.errors import ConfigError

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TINY = CONFIGS / "preference" / "dpo_tiny.py"


def test_our_side_takes_the_steps_whose_pairs_the_other_is_handed(tmp_path: pathlib.Path):
    found = measured({"config": str(TINY), "steps": 2, "folder": str(tmp_path)})
    batch = asked_of(str(TINY), 2).fit.batch_size
    assert len(found["seconds"]) == 2 + UNTIMED
    assert min(found["seconds"]) > 0
    assert found["counted"] == [2, 3], "a single shape, which the first step compiles"
    assert found["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    pairs = json.loads((tmp_path / "train.json").read_text())
    assert len(pairs) == (2 + UNTIMED) * batch
    assert {name for pair in pairs for name in pair} == {"prompt_ids", "chosen_ids", "rejected_ids"}
    assert all(tokens and isinstance(tokens[0], int) for pair in pairs for tokens in pair.values())
    assert len({json.dumps(pair) for pair in pairs}) > batch, "other pairs in each step"
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["preference/losses_dpo.py", "preference/simpo_tiny.py", "tiny_lm.py"])
def test_what_has_no_other_side_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"all parameters by DPO|its pairs are sampled"):
        asked_of(str(CONFIGS / name), 2)


def test_steps_of_as_many_pairs_as_a_prompt_has_are_refused(tmp_path: pathlib.Path):
    shared = tmp_path / "shared.py"
    shared.write_text(
        "import dataclasses\n"
        "from jaxalign.config.load import load\n"
        "from jaxalign.training.one_prompt import OnePrompt\n"
        f"tiny = load({str(TINY)!r})\n"
        "experiment = dataclasses.replace(tiny, fit=dataclasses.replace(tiny.fit, rows=OnePrompt(4)))\n"
    )
    with pytest.raises(ConfigError, match=r"shared\.py: a step has as many pairs as its prompt"):
        asked_of(str(shared), 2)


def test_rates_are_medians_of_the_rounds_and_their_ratio():
    ours = [
        {"backend": "jax", "seconds": [9.0, each, 9.0, each], "first_loss": 0.7, "counted": [1, 3]}
        for each in (1.0, 2.0, 4.0)
    ]
    theirs = [{"backend": "trl", "seconds": [5.0, each, 5.0, 3 * each], "first_loss": 0.7} for each in (2.0, 4.0, 1.0)]
    first, second = told("mine", 8, {"jaxalign": ours, "TRL": theirs})
    assert (first["pairs_per_s"], first["least"], first["most"]) == (4.0, 2.0, 8.0)
    assert (second["pairs_per_s"], second["least"], second["most"]) == (2.0, 1.0, 4.0)
    assert first["over_trl"] == 2.0
    assert first["seconds"] == np.median([2.0, 4.0, 8.0])
    first, second = told("mine", 8, {"jaxalign": ours, "TRL": [{"skipped": "trl not installed"}] * 3})
    assert (second["skipped"], second.get("failed")) == ("trl not installed", None)
    assert "over_trl" not in first


def test_a_side_that_failed_is_no_success(monkeypatch, capsys):
    """Rounds that were measured are shown all the same; what is not installed is no failure."""
    failed = {"skipped": "ended with 1: no memory", "failed": True}
    absent = {"skipped": "trl not installed in python"}
    ours = {"backend": "jax", "seconds": [9.0, 1.0], "first_loss": 0.7, "counted": [1]}
    for theirs, code in ((absent, 0), (failed, 1)):
        rows = told("mine", 8, {"jaxalign": [ours], "TRL": [theirs]})
        monkeypatch.setattr("jaxalign.bench.pairs.run", lambda args, rows=rows: rows)
        assert main(["bench", "pairs", str(TINY), "--json"]) == code
        said = capsys.readouterr()
        assert json.loads(said.out) == rows
        assert ("not measured: TRL ended with 1: no memory" in said.err) == bool(code)
