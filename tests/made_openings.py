"""Experiments opened for the doctor, small enough to compile in a test."""

import dataclasses
import pathlib

from jaxalign.config.load import load, override
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome
from jaxalign.models.model import Model, split
from jaxalign.models.rope import Rope

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SMALL = (
    *(
        "--feedback.rollout.samples",
        "3",
        "--feedback.rollout.max_tokens",
        "8",
        "--evaluation.prompts.limit",
        "4",
        "--fit.batch_size",
        "8",
    ),
    *("--placement.mesh.fsdp", "1"),
)


def tiny_lm(*overrides: str):
    return override(override(load(CONFIGS / "tiny_lm.py"), SMALL), overrides)


def opened(tmp_path, *overrides: str, **replaced) -> Opened:
    return Opened(dataclasses.replace(tiny_lm(*overrides), **replaced), tmp_path, 8)


def by_name(found) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome in found}


def turning(model: Model, base: float) -> Model:
    """The same with another RoPE base."""
    made = split(dataclasses.replace(model.config, ropes=(Rope(base),)), model.chat, model.source, model.read)
    return dataclasses.replace(model, config=made.config, graphdef=made.graphdef, stepper=made.stepper)
