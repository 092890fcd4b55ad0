"""The cases that plans are set beside: their shapes are those of the measurements."""

import pytest

from jaxalign.__main__ import main
from jaxalign.bench.calibration import CASES
from jaxalign.config.load import validate
from jaxalign.plan.chips import topology
from jaxalign.plan.target import model_of, sizes_of
from jaxalign.programs import check_batches


@pytest.mark.parametrize(
    ("name", "chips", "rows", "published"),
    [
        ("dpo", 16, 128, 2**20 / 16 / 15.4),  # 1,048,576 tokens a step of 15.4 s
        ("scoring", 16, 512, 4 * 2**20 / 16 / 13.4),
        ("lone", 256, 768, 7032),  # the lower of those that are published
    ],
)
def test_cases_have_the_published_shapes(name, chips, rows, published):
    case = CASES[name]
    experiment = case.experiment()
    validate(experiment)
    target = topology(experiment.placement.topology)
    assert (target.chips, experiment.placement.mesh.fsdp) == (chips, chips)
    check_batches(experiment, chips)
    sizes = sizes_of(experiment, model_of(experiment.model))
    assert sizes.rows.row == 8192
    assert sizes.rows.scored > 0.99 * sizes.rows.row
    placement = experiment.placement
    assert rows == (placement.score_batch_size if case.program == "logp" else experiment.fit.batch_size)
    assert case.tokens_per_s_per_chip == pytest.approx(published)


def test_unknown_cases_are_refused(capsys):
    assert main(["bench", "calibration", "--cases", "dpo,ppo"]) == 2
    assert "there is no 'ppo', but dpo, scoring, lone" in capsys.readouterr().err
