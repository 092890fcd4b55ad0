"""What is said of a plan, on a page and as JSON, and the command line that asks for one; nothing is compiled."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import pytest

from jaxalign.__main__ import main
from jaxalign.config.load import load
from jaxalign.errors import ConfigError
from jaxalign.mesh.sharding import MeshShape, row_shards
from jaxalign.plan import collectives, cost
from jaxalign.plan.chips import chip, topology
from jaxalign.plan.compiled import Compiled, Memory, TooLarge
from jaxalign.plan.plan import Attempt, Plan, fits
from jaxalign.plan.report import as_json, as_text
from jaxalign.plan.target import devices_of
from jaxalign.training.packed import Packed
from jaxalign.training.row_rule import Planned
from jaxalign.training.rows import Sizes

CONFIGS = Path(__file__).parents[1] / "configs"


def tiny():
    return load(CONFIGS / "tiny_lm.py")


GIB = 2**30


def program(name: str, gib: float) -> Compiled:
    v5e = chip("v5e")
    none = collectives.Summary({"all-gather": collectives.Traffic(3, 5 * 2**20)}, 5 * 2**20, 0, 0, 0)
    estimate = cost.Estimate(1.0, 2.0, 1.8, 1.5, 0.5, 0.1, 0.5, 0.0, 0.0, 0.0, 0.0, 100.0, 0.4, 0.5, ())
    memory = Memory(int(gib * GIB) - 3, 1, 1, 1, 0, 0)
    assert v5e.device_hbm_usable == int(15.75 * GIB)
    return Compiled(name, memory, none, 1e12, 2e12, 1000, estimate, 7.0, frozenset(), ())


def plan(train: Compiled | TooLarge, *attempts: Attempt) -> Plan:
    return Plan(
        topology=topology("v5e:2x2"),
        chip=chip("v5e"),
        mesh={"fsdp": 4},
        sizes=Sizes(64, 64),
        step=Planned(8, Sizes(64, 64).rows),
        programs=(train, program("logp", 2.0), program("rollout", 3.0)),
        calls={"train": 3600, "logp": 0, "rollout": 0},
        attempts=attempts,
        host_peak_gib=1.0,
    )


def test_rows_are_told_as_they_are_trained_on():
    made = plan(program("train", 5.0))
    assert "rows of 192 tokens (prompt 64, two responses of 64)" in as_text(made)
    sizes = Sizes(64, 64, answers=6)
    shared = dataclasses.replace(made, sizes=sizes, step=Planned(4, sizes.shared(15)), together=15)
    assert "rows of 448 tokens (prompt 64, 6 responses of 64)" in as_text(shared)
    assert (as_json(shared)["tokens"]["row"], as_json(shared)["rows"]) == (448, 4)
    packed = dataclasses.replace(made, step=Packed(tokens=1024).planned(made.sizes, units=8, multiple=1))
    assert "rows of 768 tokens (prompt 64, two responses of 64; several such a row)" in as_text(packed)
    assert as_json(packed)["rows"] == 2
    full = dataclasses.replace(made, step=Packed(tokens=192).planned(made.sizes, units=8, multiple=1))
    assert full.rows.groups > 1, "places come in fours"
    assert "rows of 192 tokens (prompt 64, two responses of 64)" in as_text(full)


def test_five_percent_of_the_memory_stay_free():
    v5e = chip("v5e")
    assert fits(program("train", 0.949 * 15.75), v5e)
    assert not fits(program("train", 0.951 * 15.75), v5e)
    assert not fits(TooLarge("train", None, "no", 1.0), v5e)


def test_a_plan_that_fits_says_what_a_run_costs():
    made = plan(program("train", 10.0))
    found = as_json(made)
    assert found["fits"] is True
    assert found["peak_gib"]["train"] == pytest.approx(10.0)
    assert found["headroom"]["train"] == pytest.approx(1 - 10 / 15.75)
    assert found["step_seconds_range"] == [1.0, 2.0]
    assert "60.5 % of the peak (published" in found["step_seconds_evidence"]
    assert found["hours_range"] == [1.0, 2.0]
    assert (found["hours_estimate"], found["chip_hours_estimate"]) == (2.0, 8.0)  # 3,600 steps of 2 s on 4 chips
    assert found["collective_bytes"] == 5 * 2**20
    assert json.loads(json.dumps(found)) == found
    text = as_text(made)
    assert "1.0 to 2.0 h, 4 to 8 chip-hours" in text
    assert re.search(r"^train +1,000 +2,000 +100 ", text, re.MULTILINE)
    assert text.endswith("fits, with at least 5 % of the memory free")


def test_a_plan_of_data_that_are_not_here_says_what_steps_cost():
    text = as_text(dataclasses.replace(plan(program("train", 10.0)), calls=None))
    assert "a thousand steps of training take 0.3 to 0.6 h, 1 to 2 chip-hours" in text  # 1 to 2 s on 4 chips
    assert "whole run: unknown, since its prompts or pairs are not here" in text
    assert "thousand steps" not in as_text(plan(TooLarge("train", None, "no", 1.0)))


def test_a_plan_that_does_not_fit_says_what_to_change():
    large = TooLarge("train", 18 * GIB, "Used 18.24G of 15.75G hbm.", 3.0)
    made = plan(
        large,
        Attempt("--placement.remat full", large),
        Attempt("--placement.remat full --placement.accumulate 2", program("train", 9.0)),
    )
    found = as_json(made)
    assert found["fits"] is False
    assert found["remedy"] == "--placement.remat full --placement.accumulate 2"
    assert found["peak_gib"]["train"] == 18
    assert found["step_seconds_estimate"] is None
    assert found["hours_estimate"] is None
    assert [attempt["fits"] for attempt in found["attempts"]] == [False, True]
    assert "the training step fits with --placement.remat full --placement.accumulate 2" in as_text(made)
    assert "nothing that was tried helps" in as_text(plan(large, Attempt("--placement.remat full", large)))


def test_gradients_that_are_summed_whole_are_told():
    traffic = collectives.Traffic
    summed = {"all-gather": traffic(3, 100), "all-reduce": traffic(3, 60)}
    scattered = summed | {"reduce-scatter": traffic(3, 30)}
    few = summed | {"all-reduce": traffic(1, 1)}
    for by_kind, told in ((summed, True), (scattered, False), (few, False)):
        train = dataclasses.replace(program("train", 5.0), traffic=collectives.Summary(by_kind, 0, 0, 0, 0))
        assert any("summed whole" in caveat for caveat in plan(train).caveats) is told


# ----------------------------------------------------------------------------------------------------------------------
# The command line


def test_wrong_questions_are_answered_before_anything_is_compiled(capsys):
    tiny_config = str(CONFIGS / "tiny_lm.py")
    assert main(["plan", tiny_config]) == 2
    assert "--topology NAME is missing" in capsys.readouterr().err
    assert main(["plan", tiny_config, "--topology", "v5p-128"]) == 2
    assert "v5p:4x4x4" in capsys.readouterr().err
    assert main(["plan", tiny_config, "--topology", "v5e:2x2", "--slices", "2"]) == 2
    assert "mesh.slices is 1" in capsys.readouterr().err
    assert main(["plan", tiny_config, "--topology", "v5e:2x4", "--placement.mesh.fsdp", "2"]) == 2
    assert "v5e:2x4 has 8 devices, and placement.mesh is fsdp 2: sizes must have 8" in capsys.readouterr().err
    options = ["--placement.mesh.fsdp", "4", "--placement.mesh.tensor", "4"]
    assert main(["plan", tiny_config, "--topology", "v5e:2x4", *options]) == 2
    assert "placement.mesh is fsdp 4 · tensor 4" in capsys.readouterr().err
    assert main(["plan", tiny_config, "--topology", "v5e:2x4", "--placement.mesh.tensor", "3"]) == 2
    assert "placement.mesh is fsdp -1 · tensor 3" in capsys.readouterr().err
    assert main(["plan", tiny_config, "--topology", "v9:2x4"]) == 2
    assert "unknown topology 'v9:2x4'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (RuntimeError("INVALID_ARGUMENT: unknown TPU tpu7x"), r"libtpu \S* ?cannot compile for tpu7x:2x2x1: INVALID"),
        (NotImplementedError("no libtpu"), r"takes the TPU compiler: pip install 'jaxalign\[plan\]'"),
    ],
)
def test_a_compiler_that_does_not_know_a_generation_says_so(reason, said, monkeypatch):
    def refuse(**asked):
        raise reason

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", refuse)
    with pytest.raises(ConfigError, match=said):
        devices_of(topology("tpu7x:2x2x1"))


def test_shardings_are_printed_for_a_mesh_of_this_machine(capsys, tmp_path):
    arguments = ["--placement.mesh.fsdp", "4", "--placement.mesh.tensor", "2", "--print-shardings"]
    assert main(["train", str(CONFIGS / "tiny_lm.py"), *arguments]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("blocks.mlp.down"))
    assert "-, tensor, fsdp" in line
    total = float(out.splitlines()[-1].split()[-1])
    model = tiny().model.open()
    whole = 4 * sum(leaf.size for leaf in jax.tree.leaves(model.abstract())) / 2**20
    assert whole / 8 <= total < whole / 3
    assert row_shards(MeshShape(fsdp=4, tensor=2).build()) == 4
