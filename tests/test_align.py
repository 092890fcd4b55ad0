"""The whole loop on tiny experiments: resumed = uninterrupted, the theorem's picture, the summary, refused inputs."""

import dataclasses
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from made_feedback import fed
from made_runs import CONFIGS, SMALL, assert_same_run, content, policy, run_here, run_stopping, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import load, validate
from jaxalign.config.resolved import dump, restore
from jaxalign.errors import ConfigError, DataError
from jaxalign.losses.ipo import IPO
from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import read_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    return workdir, run_here(tiny_lm(), workdir)


# --------------------------------------------------------------------------------------------------------------
# Interrupted and continued = uninterrupted


@pytest.mark.timeout(900)
def test_a_stop_at_every_question_loses_nothing(finished, tmp_path):
    """The run is stopped whenever it asks, once more each time it is started."""
    workdir = tmp_path / "stopped"
    assert run_stopping(tiny_lm(), workdir, 12) >= 2
    assert_same_run(finished[0], workdir)


def test_a_finished_run_started_again_changes_nothing(finished, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(finished[0], again)
    run_here(tiny_lm(), again)
    assert_same_run(finished[0], again)


def test_two_runs_of_one_config_are_equal_and_another_seed_is_not(finished, tmp_path):
    run_here(tiny_lm(), tmp_path / "twin")
    assert_same_run(finished[0], tmp_path / "twin")
    run_here(tiny_lm("--seed", "1"), tmp_path / "other")
    assert content(finished[0])["metrics.jsonl"] != content(tmp_path / "other")["metrics.jsonl"]


def test_eight_devices_give_the_run_of_one(finished, tmp_path):
    cube = [word for axis in ("data", "fsdp", "tensor") for word in (f"--placement.mesh.{axis}", "2")]
    run_here(tiny_lm(*cube), tmp_path)
    for ours, theirs in zip(read_metrics(finished[0]), read_metrics(tmp_path), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            if name == "rewards/accuracies" and abs(ours["rewards/margins"]) < 1e-5:
                continue  # a fit's first step, whose margins are nothing but rounding: their signs say nothing
            if isinstance(value, float):
                # fp32 sums in another order, amplified by two short Adam fits; the sampled tokens are the same.
                assert theirs[name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


def launch(workdir: pathlib.Path, cache: pathlib.Path, *program: str) -> int:
    """The exit code of a run in a process of its own, which shares what was compiled with the others."""
    environment = os.environ | {
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, *(program or ("-m", "jaxalign")), "train", str(CONFIGS / "tiny_lm.py")]
    with (workdir.parent / "log").open("w") as log:
        return subprocess.run(
            [*command, "--workdir", str(workdir), *SMALL], env=environment, stdout=log, stderr=log, check=False
        ).returncode


MOMENTS = (
    "initial/policy*",
    "initial/heldout.parts/00000*",
    "0000/rollouts.parts/00000*",
    "0000/preferences*",
    "0000/references*",
    "0000/fit/00000001*",
    "0000/policy*",
    "0000/heldout*",
    "0001/rollouts*",
    "0001/fit/0*",
    "0001/evals*",
)
"""Paths whose first appearance says that a phase is under way; the kill follows within some operations on files."""


@pytest.mark.timeout(900)
@pytest.mark.parametrize("moments", [MOMENTS[4::5], pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=["some", "all"])
def test_killed_in_every_phase_and_rerun_is_bit_identical(moments, tmp_path):
    cache, rng = tmp_path / "compiled", random.Random(0)
    killer = str(pathlib.Path(__file__).parent / "killed.py")
    assert launch(tmp_path / "whole", cache) == 0, (tmp_path / "log").read_text()
    for moment in moments:
        code = launch(tmp_path / "killed", cache, killer, moment, str(rng.randrange(12)))
        assert code == -signal.SIGKILL, f"{moment}: {(tmp_path / 'log').read_text()}"
    assert launch(tmp_path / "killed", cache) == 0, (tmp_path / "log").read_text()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


# --------------------------------------------------------------------------------------------------------------
# What a run says of itself


def test_the_summary_holds_what_a_reader_asks_for(finished):
    workdir, summary = finished
    on_disk = json.loads((workdir / "summary.json").read_text())
    assert on_disk == summary
    assert 0 <= summary["win_rate_ci95"][0] <= summary["win_rate_vs_base"] <= summary["win_rate_ci95"][1] <= 1
    assert 0 <= summary["cyclic_triples"] <= 1
    assert np.isfinite(summary["kl_from_base_nats"])
    assert summary["seconds"] > 0
    assert summary["peak_memory_gib"] > 0
    names, matrix = summary["win_rates"]["policies"], np.array(summary["win_rates"]["row_beats_column"])
    assert names == ["base", "iterate-1", "iterate-2"]
    np.testing.assert_array_equal(matrix + matrix.T, 1.0)


def test_metrics_have_a_line_for_every_phase_and_step(finished):
    lines = read_metrics(finished[0])
    places = [(line["iteration"], line["phase"], line["step"]) for line in lines]
    expected = [("initial", "evals", 0)]
    for iteration in (0, 1):
        expected += [(iteration, "align", 0), (iteration, "certificates", 0)]
        expected += [(iteration, "fit", 0), (iteration, "fit", 1), (iteration, "evals", 0)]
    assert places == expected
    assert all("cycles/cyclic_triples" in line for line in lines if line["phase"] == "align")
    assert all(line["align/inner_gap"] >= 0 for line in lines if line["phase"] == "certificates")
    assert all("rewards/margins" in line for line in lines if line["phase"] == "fit")


def test_the_anchor_follows_its_schedule():
    experiment = tiny_lm("--iterations", "7", "--swap_every", "3")
    assert [experiment.scheduled_anchor(i) for i in range(7)] == [0, 0, 0, 3, 3, 3, 6]
    fixed = tiny_lm("--swap_every", "none")
    assert [fixed.scheduled_anchor(i) for i in range(7)] == [0] * 7


def test_old_policies_are_pruned_but_base_anchor_and_newest_stay(tmp_path):
    run_here(tiny_lm("--iterations", "4", "--swap_every", "3", "--keep_policies", "1"), tmp_path)
    assert read_run(tmp_path).policies() == [0, 3, 4]


# --------------------------------------------------------------------------------------------------------------
# The three-action game through the same loop


def gaps(experiment, workdir) -> np.ndarray:
    run_here(experiment, workdir)
    return np.array([line["nash/gap"] for line in read_metrics(workdir) if line["phase"] == "evals"])


def three_action(**changes):
    return dataclasses.replace(load(CONFIGS / "games" / "three_action.py"), **changes)


@pytest.mark.slow
def test_comal_reaches_the_nash_policy(tmp_path):
    found = gaps(three_action(iterations=48), tmp_path)
    assert found[0] == pytest.approx(0.28, abs=1e-6)
    # Twelve inner steps and a swap shrink the distance by 0.225: 0.28 · 0.225⁴ = 7e-4.
    assert found[-1] < 1e-3


@pytest.mark.slow
def test_inpo_with_a_fixed_anchor_stalls_at_the_regularised_solution(tmp_path):
    found = gaps(three_action(iterations=48, swap_every=None), tmp_path)
    # The value at the limit. The distance shrinks by 0.906 a step; 0.906⁴⁸ = 9e-3 of 0.28 remains.
    assert found[-1] == pytest.approx(0.0588277, abs=3e-3)


def test_iterative_ipo_spirals_outwards(tmp_path):
    experiment = three_action(iterations=8, swap_every=1, loss=IPO(tau=1 / 1.5))
    run_here(experiment, tmp_path)
    kl = [line["nash/kl"] for line in read_metrics(tmp_path) if line["phase"] == "evals"]
    assert (np.diff(kl) > 0).all()


def test_one_iteration_is_the_exact_mirror_descent_step(tmp_path):
    """Golden: arXiv 2410.23223's game, step size 0.3, from (.2, .5, .3); one multiplicative-weights step in fp64."""
    game = three_action(iterations=1, swap_every=None, loss=IPO(tau=1 / 0.3))
    run_here(dataclasses.replace(game, fit=dataclasses.replace(game.fit, epochs=100)), tmp_path)
    table = np.asarray(policy(tmp_path, 1)["table"])[:, 0]
    probabilities = np.exp(table) / np.exp(table).sum()
    np.testing.assert_allclose(probabilities, [0.19342804, 0.49383244, 0.31273952], atol=1e-6)


# --------------------------------------------------------------------------------------------------------------
# Refused


def test_a_workdir_of_another_config_is_refused_with_what_differs(finished):
    with pytest.raises(ConfigError, match=r"loss\.eta: 0\.2 in the run, 0\.4 now"):
        run_here(tiny_lm("--loss.eta", "0.4"), finished[0])


def test_prompts_that_do_not_fit_are_refused_before_compute(tmp_path):
    file = tmp_path / "long.jsonl"
    file.write_text(json.dumps({"id": "long-one", "prompt": "word " * 3000}) + "\n")
    experiment = tiny_lm()
    long = fed(experiment, prompts=dataclasses.replace(json_prompts(file)))
    with pytest.raises(DataError, match="long-one"):
        run_here(long, tmp_path / "run")
    assert not (tmp_path / "run" / "initial").exists()


def json_prompts(file: pathlib.Path):
    from jaxalign.data.prompts import JsonlPrompts

    return JsonlPrompts(str(file))


def test_batches_that_do_not_split_over_the_mesh_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="multiple of the 8 shards"):
        run_here(tiny_lm("--fit.batch_size", "4", "--placement.mesh.fsdp", "8"), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["--swap_every", "5"], "not reached"),
        (["--swap_every", "0"], "at least 1"),
        (["--feedback.rollout.samples", "1"], "at least 2"),
        (["--iterations", "0"], "iterations must be at least 1"),
        (["--keep_policies", "0"], "keep_policies"),
    ],
)
def test_conflicting_settings_are_refused_with_the_reason(overrides, words):
    with pytest.raises(ConfigError, match=words):
        validate(tiny_lm(*overrides))


# --------------------------------------------------------------------------------------------------------------
# The command line on a finished run


def test_eval_prints_the_matrix_of_the_run(finished, capsys):
    assert main(["eval", str(finished[0]), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["policies"] == ["base", "iterate-1", "iterate-2"]
    assert shown["row_beats_column"] == finished[1]["win_rates"]["row_beats_column"]
    assert shown["evals"]["iterate-2"]["win_rate/vs_base"] == finished[1]["win_rate_vs_base"]


def test_eval_answers_other_prompts(finished, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('{"prompt": "Name a colour."}\n{"prompt": "Count to three."}\n')
    assert main(["eval", str(finished[0]), "--prompts", str(tmp_path / "p.jsonl"), "--policies", "base,last"]) == 0
    assert "iterate-2" in capsys.readouterr().out


def test_sample_answers_and_converses(finished, capsys, monkeypatch):
    assert main(["sample", str(finished[0]), "--prompt", "Hello?", "--max-tokens", "4", "--samples", "2"]) == 0
    assert capsys.readouterr().out.startswith("> Hello?\n")
    lines = iter(["Hi.\n", "And?\n", "\n"])
    monkeypatch.setattr("sys.stdin.readline", lambda: next(lines), raising=False)
    assert main(["sample", str(finished[0]), "--policy", "base", "--max-tokens", "4", "--temperature", "0"]) == 0
    assert capsys.readouterr().out.count("\n") >= 2


def test_export_writes_a_directory_that_loads_again(finished, tmp_path, capsys):
    from jaxalign.models.pretrained import Pretrained

    assert main(["export", str(finished[0]), str(tmp_path / "hf")]) == 0
    assert "policy 2" in capsys.readouterr().out
    back = Pretrained(str(tmp_path / "hf")).open().load()
    for a, b in zip(jax.tree.leaves(policy(finished[0], 2)), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "configs/nothing.py", "--workdir", "x"], 2, "no such config file"),
        (["train", str(CONFIGS / "tiny_lm.py"), "--workdir", "x", "--los.eta", "1"], 2, "loss.eta"),
        (["train", str(CONFIGS / "tiny_lm.py"), "--workdir", "x", "--loss.eta", "much"], 2, "expected a float"),
        (["train", str(CONFIGS / "tiny_lm.py")], 2, "--workdir"),
        (["eval", "/nonexistent"], 2, "no run directory"),
    ],
)
def test_errors_are_one_message_and_an_exit_code(arguments, code, words, capsys):
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_policies_that_are_not_there_are_named(finished, capsys):
    assert main(["sample", str(finished[0]), "--policy", "9", "--prompt", "x"]) == 2
    assert "holds 0, 1, 2" in capsys.readouterr().err


def test_help_names_the_verbs_and_the_options_of_an_experiment(capsys):
    assert main(["--help"]) == 0
    overview = capsys.readouterr().out
    assert all(verb in overview for verb in ("train", "eval", "sample", "export", "bench"))
    assert main(["train", str(CONFIGS / "tiny_lm.py"), "--loss.eta", "0.375", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--loss.eta" in told
    assert "0.375" in told


def test_print_config_is_the_resolved_experiment(capsys):
    assert main(["train", str(CONFIGS / "tiny_lm.py"), "--print-config", "--loss.eta", "0.3"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == {"type": "jaxalign.losses.inpo:INPO", "eta": 0.3, "tau": 0.05}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_every_config_loads_is_valid_and_survives_its_dump(path):
    experiment = load(path)
    validate(experiment)
    assert restore(dump(experiment)) == experiment
