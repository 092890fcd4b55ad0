"""Objectives that are at odds, in whole runs: trained with LoRA, wherever arrays lie, and measured one by one."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxalign.__main__ import main
from jaxalign.storage.record import read_metrics

CONFIG = Path(__file__).parents[1] / "configs" / "raco" / "raco_tiny.py"
OTHER = """
import dataclasses
from jaxalign.config.load import load
from jaxalign.losses.amopo import AMoPO
from jaxalign.objectives.mixed import Mixed
tiny = load({tiny!r})
experiment = dataclasses.replace(tiny, loss=AMoPO((0.8, 0.2)), combiner=Mixed())
"""


def trained(config: Path, workdir: Path, *options: str) -> list[dict]:
    """What was logged of the fit's steps."""
    assert main(["train", str(config), "--workdir", str(workdir), *options]) == 0
    return [line for line in read_metrics(workdir) if line["phase"] == "fit"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """On all eight devices, each step one batch."""
    workdir = tmp_path_factory.mktemp("raco") / "run"
    return workdir, trained(CONFIG, workdir)


def test_both_objectives_are_followed_by_what_the_weights_say(whole):
    workdir, lines = whole
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert min(line["cosine/objectives_0_1"] for line in lines) < 0  # at odds
    for line in lines:
        for index, weight in enumerate((0.8, 0.2)):
            mixture, clipped = (line[f"{name}/objective_{index}"] for name in ("mixture", "clipped"))
            assert clipped == pytest.approx(min(mixture, weight), abs=1e-6)
            assert line[f"coefficients/objective_{index}"] >= weight - 1e-6
        assert line["descent"] == pytest.approx(1 + 0.4 * line["alignment"], rel=1e-5)
    evals = json.loads((workdir / "summary.json").read_text())["evals"]
    told = json.dumps(evals)
    assert "heldout/margin_nats/objective_1_ci95_low" in told
    assert "heldout/accuracy/objective_0" in told


def test_accumulated_on_one_device_it_is_the_same_run(whole, tmp_path):
    """One solve a step: microbatches, or devices, of their own would find other mixtures."""
    _, lines = whole
    options = ("--placement.mesh.fsdp", "1", "--placement.accumulate", "4")
    apart = trained(CONFIG, tmp_path / "run", *options)
    assert len(apart) == len(lines)
    for one, other in zip(apart, lines, strict=True):
        for name in (name for name in other if "objective" in name or name in ("loss", "grad_norm", "alignment")):
            np.testing.assert_allclose(one[name], other[name], rtol=5e-3, atol=5e-4, err_msg=f"{name} {one['step']}")


def test_objectives_in_one_loss_train_too(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(OTHER.format(tiny=str(CONFIG)))
    lines = trained(config, tmp_path / "run", "--placement.accumulate", "2", "--placement.mesh.fsdp", "2")
    assert lines[-1]["loss"] < lines[0]["loss"]
