"""The doctor on step 0 and on sampling: sound ones hold, and each thing wrong is told."""

import dataclasses
import math

import pytest
from made_openings import CONFIGS, by_name

from jaxalign.config.load import load, override
from jaxalign.doctor.checks.decoding import Decoding
from jaxalign.doctor.checks.first_step import FirstStep, Seen
from jaxalign.doctor.checks.row import Row
from jaxalign.doctor.checks.sampling import Sampling
from jaxalign.doctor.opened import Opened
from jaxalign.losses.bmc import BMC
from jaxalign.losses.dpo import DPO
from jaxalign.losses.sum_of import SumOf
from jaxalign.models.model import definitions
from jaxalign.references.live import Live

SHORT = ("--model.layers", "1", "--feedback.rollout.samples", "2", "--feedback.rollout.max_tokens", "4")


def short(tmp_path, *overrides: str, **replaced) -> Opened:
    """Less to compile."""
    experiment = override(override(load(CONFIGS / "tiny_lm.py"), SHORT), overrides)
    return Opened(dataclasses.replace(experiment, **replaced), tmp_path, 8)


@pytest.mark.parametrize(
    "overrides",
    [
        ("--placement.mesh.fsdp", "1", "--model.compute_dtype", "bfloat16", "--placement.remat", "full"),
        pytest.param(
            ("--placement.mesh.data", "2", "--placement.mesh.fsdp", "1", "--placement.mesh.tensor", "2"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_step_0_and_sampling_hold_under_remat_dtype_and_mesh(tmp_path, overrides):
    there = short(tmp_path, *overrides, reference=Live(), loss=SumOf((DPO(), BMC()), (0.5, 0.5)))
    found = [*FirstStep()(there), *Sampling()(there), *Row()(there)]
    assert len(found) == 5
    assert all(outcome.status == "ok" for outcome in found), found
    # While margins are 0 every label costs ln 2; in bf16 live margins are rounding.
    assert by_name(found)["loss at step 0"].measured["loss"] == pytest.approx(math.log(2), abs=1e-2)


def test_a_decoder_with_wrong_scores_is_found(tmp_path):
    there = short(tmp_path, "--placement.mesh.fsdp", "1", "--model.tied", "false")
    _, stepper = definitions(dataclasses.replace(there.model.config, query_scalar=0.01), there.model.layout)
    there.machine.model = dataclasses.replace(there.model, stepper=stepper)
    assert by_name(Sampling()(there))["recorded while sampling = recomputed"].status == "finding"
    assert by_name(Decoding()(there))["prefill + decode = one forward"].status == "finding"


SEEN = Seen(exact=0.0, live=0.0, cached=0.0, loss=0.7, expected=0.7, slope=1.0, dpo=math.log(2), grad_norm=1.0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"exact": 1e-7}, "not deterministic"),
        ({"cached": 0.1}, "not the policy it was made of"),
        ({"live": math.nan}, "not the policy it was made of"),
        ({"loss": 1.2}, "not what its formula says"),
        ({"dpo": 0.7}, "not ln 2"),
        ({"grad_norm": math.inf}, "not finite"),
        ({"grad_norm": 0.0}, "exactly 0"),
    ],
)
def test_each_thing_wrong_at_step_0_is_told(wrong, said):
    def told(seen):
        check = FirstStep()
        return [*check.ratios(seen, 0.01), *check.losses(seen, 0.01), *check.gradients(seen)]

    assert told(SEEN) == []
    assert len(told(dataclasses.replace(SEEN, **wrong))) == 1
    assert said in told(dataclasses.replace(SEEN, **wrong))[0]
