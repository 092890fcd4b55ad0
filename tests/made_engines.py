"""What rollout engines are tried with: a short rollout, and a run of four prompts."""

from pathlib import Path

import jax
from made_runs import CONFIGS

from jaxalign.config.load import load, override
from jaxalign.experiment import Experiment
from jaxalign.rollouts.sample import Sample

SPEC = Sample(samples=2, max_tokens=4)
KEY = jax.random.key(7)

FEW = (
    *("--iterations", "1", "--swap_every", "none", "--feedback.prompts_per_iteration", "4"),
    *("--evaluation.prompts.limit", "2"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "4", "--fit.batch_size", "8"),
    *("--placement.rollout_rows", "12", "--placement.mesh.fsdp", "1"),
)


def few(*overrides: str, file: Path = CONFIGS / "tiny_lm.py") -> Experiment:
    """One iteration of four prompts with three samples each, and two held-out prompts, on one device."""
    return override(override(load(file), FEW), overrides)
