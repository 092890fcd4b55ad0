"""Continuous batching by two processes of four CPU devices each: what they commit is what one process of eight does."""

import pathlib

import pytest
from made_processes import MESH, files, finish
from made_runs import CONFIGS

pytestmark = [pytest.mark.multiprocess, pytest.mark.timeout(600)]

OWN = """from dataclasses import replace

from jaxalign.config.load import load
from jaxalign.rollouts.slots import Slots

tiny_lm = load({config!r})
rollout = replace(tiny_lm.feedback.rollout, engine=Slots())
experiment = replace(tiny_lm, feedback=replace(tiny_lm.feedback, rollout=rollout))
"""
SMALL = (
    *("--iterations", "1", "--swap_every", "none", "--feedback.prompts_per_iteration", "12"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--placement.rollout_rows", "8"),
    *("--evaluation.rollout.max_tokens", "4", "--evaluation.prompts.limit", "4", "--fit.batch_size", "8"),
)


def test_two_processes_draw_what_one_draws(tmp_path: pathlib.Path) -> None:
    """Rows fewer than a third of the answers: prompts come into places that become free, and rows are halved."""
    config = tmp_path / "slots.py"
    config.write_text(OWN.format(config=str(CONFIGS / "tiny_lm.py")))
    for count in (1, 2):
        finish(config, tmp_path / str(count), tmp_path / "compiled", count, *SMALL, *MESH)
    for phase in ("0000/rollouts", "0000/groups"):
        assert files(tmp_path / "1", f"{phase}/*") == files(tmp_path / "2", f"{phase}/*")
