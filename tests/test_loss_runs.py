"""Losses that read more than sums, in whole runs: trained, evaluated between steps, and refused with a reason."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.config.load import load, validate
from jaxalign.errors import ConfigError
from jaxalign.losses.aot import AOT
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.objectives.weighted_sum import WeightedSum
from jaxalign.storage.record import read_metrics

CONFIGS = Path(__file__).parents[1] / "configs" / "preference"
MINE = """
import dataclasses
from jaxalign.config.load import load
from jaxalign.losses.aot import AOT
from jaxalign.losses.bmc import BMC
from jaxalign.losses.ld_dpo import LDDPO
from jaxalign.losses.sum_of import SumOf
from jaxalign.losses.wpo import WPO
from jaxalign.references.live import Live
dpo = load({dpo!r})
experiment = dataclasses.replace(
    dpo, loss=SumOf((LDDPO(), WPO(), AOT(), BMC()), (1.0, 1.0, 1.0, 1.0)), reference=Live()
)
"""


def trained(config: Path, workdir: Path, *options: str) -> list[dict]:
    assert main(["train", str(config), "--workdir", str(workdir), "--fit.epochs", "1", *options]) == 0
    return list(read_metrics(workdir))


def of_phase(lines: list[dict], phase: str, name: str) -> list[float]:
    return [line[name] for line in lines if line["phase"] == phase]


def test_objectives_of_the_table_differ_in_nothing_else():
    make = (CONFIGS.parents[1] / "Makefile").read_text()
    names = make.split("\nLOSSES := ")[1].split("\n")[0].split()
    assert {f"losses_{name}" for name in names} == {path.stem for path in CONFIGS.glob("losses_*.py")}
    made = [load(CONFIGS / f"losses_{name}.py") for name in names]
    assert len({type(each.loss) for each in made}) == len(names) == 12
    for each in made[1:]:
        assert dataclasses.replace(each, loss=made[0].loss) == made[0]


@pytest.mark.parametrize("name", ["kto_tiny", "simpo_tiny"])
def test_configs_train_and_are_evaluated(name, tmp_path):
    lines = trained(CONFIGS / f"{name}.py", tmp_path / "run")
    losses, held = of_phase(lines, "fit", "loss"), of_phase(lines, "heldout", "heldout/loss")
    assert losses[-1] < losses[0]
    assert held[-1] < held[0]
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["evals"]


def test_a_sum_of_what_few_losses_read_trains_in_microbatches(tmp_path):
    """On eight devices; log Σ p², the anchor token by token, edited tokens, and an order over both microbatches."""
    config = tmp_path / "mine.py"
    config.write_text(MINE.format(dpo=str(CONFIGS / "dpo_tiny.py")))
    lines = trained(config, tmp_path / "run", "--fit.batch_size", "16", "--placement.accumulate", "2")
    losses = of_phase(lines, "fit", "loss")
    assert losses[-1] < losses[0]


def test_what_cannot_be_had_is_refused_with_its_remedy():
    dpo = load(CONFIGS / "dpo_tiny.py")
    with pytest.raises(ConfigError, match=r"LDDPO reads the anchor's log-probs token by token.*take reference=Live"):
        validate(dataclasses.replace(dpo, loss=LDDPO()))
    with pytest.raises(ConfigError, match="AOT compares the groups of a batch with one another"):
        validate(dataclasses.replace(dpo, loss=AOT(), combiner=WeightedSum((0.5, 0.5))))
