"""Judges in a plan: the rows that they will read, the memory of all models together, how often they are called."""

import dataclasses

import jax
import numpy as np
import pytest
from made_feedback import fed
from made_judges import SITE, judge_directory
from made_pairs import dpo
from made_rollouts import rollouts
from made_runs import tiny_lm

from jaxalign.config.load import override
from jaxalign.errors import ModelError
from jaxalign.evals.judges_apart import JudgesApart
from jaxalign.experiment import Experiment
from jaxalign.machine import Machine
from jaxalign.mesh.sharding import bytes_per_device
from jaxalign.models.random_llama import RandomLlama
from jaxalign.oracles.learned import PreferenceModel, RewardModel
from jaxalign.oracles.lm_judge import LMJudge
from jaxalign.oracles.mixture import Member, Mixture
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.oracles.planned import Asked, JudgeProgram, conversations
from jaxalign.oracles.trees import lines
from jaxalign.plan.evaluation import asked, evaluation_calls
from jaxalign.plan.judges import in_evaluation, in_training, judge_calls, judges
from jaxalign.plan.lowered import programs
from jaxalign.plan.target import model_of, sizes_of

SHAPE = dataclasses.replace(RandomLlama().config(300), outputs=("reward",), context=512)
REWARD = RewardModel("nowhere", shape=SHAPE)


def judged_by(oracle) -> tuple[Experiment, Machine]:
    experiment = fed(tiny_lm(), oracle=oracle)
    return experiment, Machine(experiment.model.open(), experiment.placement, experiment.seed)


def test_rows_hold_a_prompt_and_its_answers_as_far_as_the_context_goes():
    found = REWARD.planned(SITE, Asked(samples=3, prompt=100, response=50), model_of)
    _, rows, wanted = found.program.arguments
    assert rows.tokens.shape == (4, 256)
    assert wanted.shape == (4, 3, 0)
    assert (found.rows, found.rows_a_prompt, found.calls(9, 64)) == (4, 1, 3)
    long = REWARD.planned(SITE, Asked(samples=3, prompt=300, response=100), model_of)
    assert long.program.arguments[1].tokens.shape == (4, 512)
    assert (long.rows_a_prompt, long.calls(9, 64)) == (2, 5)
    assert [long.calls(9, block) for block in (1, 3, 4, 9)] == [9, 6, 5, 5]
    assert all(len(each) == 512 for each in conversations(Asked(2, 10_000, 100), 512))


def test_what_is_planned_holds_what_is_read(tmp_path):
    """The rows of real answers of the longest kind are no longer than planned."""
    home = judge_directory(tmp_path / "judge", 1)
    judge = RewardModel(str(home))
    given = rollouts([["x" * 50, "y" * 50, "z" * 50]], "w" * 80)
    with judge.open(SITE) as judging:
        chat = judging.reading.reader.model.chat
        whole = [
            chat.tokenizer.encode(
                chat.render([*given.prompts[0].messages, {"role": "assistant", "content": text}], answering=False)
            ).ids
            for text in given.texts[0]
        ]
    (line,), _ = lines([whole], 512)
    trunk = len(line.trunk)
    found = judge.planned(SITE, Asked(3, trunk, len(whole[0]) - trunk), model_of)
    assert len(line) <= found.program.arguments[1].tokens.shape[1] < len(line) + 64


def test_all_judges_and_the_policy_are_on_the_devices_together():
    second = dataclasses.replace(REWARD, name="other")
    general = PreferenceModel("nowhere", shape=dataclasses.replace(SHAPE, outputs=("a", "b")))
    mixture = Mixture((Member(Panel((Weighted(REWARD), Weighted(second)))), Member(general)))
    experiment, machine = judged_by(mixture)
    found = judges(experiment, machine)
    assert [each.program.name for each in found] == ["reward_model", "other", "preference_model"]
    weights = [bytes_per_device(each.program.arguments[0]) for each in found]
    for each, own in zip(found, weights, strict=True):
        assert each.program.resident + own == bytes_per_device(machine.abstract) + sum(weights)
    calls = judge_calls(experiment, machine)
    # prompts may be so long that the context holds one answer: eight prompts of three rows each, sixteen a call
    assert calls == dict.fromkeys(("reward_model", "other", "preference_model"), 2)
    every = programs(experiment, machine, sizes_of(experiment, machine.model))
    assert [each.name for each in every][-3:] == list(calls)
    assert judges(*judged_by(Panel(()))) == ()


def test_blocks_of_prompts_are_read_apart():
    """Of 24 rows five blocks make nine or ten calls of four: blocks of five prompts have fifteen rows each."""
    experiment, machine = judged_by(Panel((Weighted(REWARD),)))
    (found,) = in_training(experiment, machine)
    assert (found.rows, found.rows_a_prompt) == (16, 3)
    blocks = override(experiment, ("--placement.judge_block_size", "3"))
    calls = judge_calls(blocks, Machine(blocks.model.open(), blocks.placement, blocks.seed))
    assert (judge_calls(experiment, machine), calls) == ({"reward_model": 2}, {"reward_model": 3})


def evaluated_by(experiment: Experiment, machine: Machine, **changes) -> tuple[Experiment, Machine]:
    return dataclasses.replace(experiment, evaluation=dataclasses.replace(experiment.evaluation, **changes)), machine


def test_the_judge_of_evaluation_is_compiled_and_counted_apart():
    """Two iterations: evals may lay the answers of three policies side by side."""
    other = dataclasses.replace(REWARD, name="other", shape=dataclasses.replace(SHAPE, layers=SHAPE.layers + 1))
    experiment, machine = evaluated_by(*judged_by(Panel((Weighted(REWARD),))), oracle=Panel((Weighted(other),)))
    first, second = judges(experiment, machine)
    assert (first.program.name, second.program.name) == ("reward_model", "evaluation/other")
    rollout = experiment.evaluation.rollout.bounds(machine.model)
    asked_of_one = Asked(rollout.samples, rollout.prompt, rollout.response)
    alone = other.planned(machine.site, dataclasses.replace(asked_of_one, samples=3 * rollout.samples), model_of)
    assert shapes(second) == shapes(alone)
    assert second.program.resident == bytes_per_device(machine.abstract)
    assert judge_calls(experiment, machine).keys() == {"reward_model"}
    # WinRate about two policies five times, Cycles about one, two and three, and the table at the end about three: of
    # eight prompts, sixteen rows a call, and a row holds one answer
    by_hand = {1: 1, 2: 5, 3: 2}
    assert asked(experiment) == by_hand
    rows = {
        k: other.planned(machine.site, dataclasses.replace(asked_of_one, samples=k), model_of).rows_a_prompt
        for k in by_hand
    }
    assert rows == {1: 1, 2: 2, 3: 3}
    assert evaluation_calls(experiment, machine) == {"evaluation/rollout": 3, "evaluation/other": 1 + 5 * 1 + 2 * 2}
    every = programs(experiment, machine, sizes_of(experiment, machine.model))
    assert [each.name for each in every][-2:] == ["reward_model", "evaluation/other"]
    apart, _ = evaluated_by(experiment, machine, evals=(JudgesApart(),))
    beside = in_evaluation(apart, machine)
    assert [each.program.name for each in beside] == ["evaluation/other", "evaluation/reward_model"]
    # JudgesApart asks both about each of three policies and the base, and the table at the end is of one of them
    assert evaluation_calls(apart, machine)["evaluation/reward_model"] == 3
    weights = [bytes_per_device(each.program.arguments[0]) for each in beside]
    assert [each.program.resident - bytes_per_device(machine.abstract) for each in beside] == weights[::-1]


def test_the_same_judge_is_compiled_again_only_where_it_is_asked_more():
    experiment, machine = judged_by(Panel((Weighted(REWARD),)))
    experiment = override(experiment, ("--feedback.rollout.max_prompt_tokens", "32"))
    rollout = dataclasses.replace(experiment.evaluation.rollout, samples=1, max_tokens=8, max_prompt_tokens=8)
    less, _ = evaluated_by(experiment, machine, rollout=rollout)
    assert [each.program.name for each in judges(less, machine)] == ["reward_model"]
    more, _ = evaluated_by(experiment, machine, rollout=dataclasses.replace(rollout, samples=16))
    assert [each.program.name for each in judges(more, machine)] == ["reward_model", "evaluation/reward_model"]


def shapes(found: JudgeProgram) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(found.program.arguments)]


def test_recorded_pairs_have_a_judge_in_evaluation_alone():
    experiment, machine = judged_by(Panel(()))
    recorded = dataclasses.replace(experiment, feedback=dpo().feedback)
    judged, _ = evaluated_by(recorded, machine, oracle=Panel((Weighted(REWARD),)))
    assert [each.program.name for each in judges(judged, machine)] == ["evaluation/reward_model"]
    assert judge_calls(judged, machine) == {}


def test_matrices_are_planned_in_the_compute_dtype_and_programs_lower():
    rough = dataclasses.replace(REWARD, compute_dtype="bfloat16")
    for judge in (rough, LMJudge(RandomLlama(context=512))):
        found = judge.planned(SITE, Asked(samples=3, prompt=60, response=20), model_of)
        assert found.program.lower().as_text()
    leaves = jax.tree.leaves(rough.planned(SITE, Asked(2, 9, 9), model_of).program.arguments[0])
    assert {np.dtype(leaf.dtype).name for leaf in leaves if leaf.size > 100} == {"bfloat16"}


def test_a_judge_of_which_nothing_is_known_is_refused():
    with pytest.raises(ModelError, match="not here, and the experiment states no `shape`"):
        judges(*judged_by(Panel((Weighted(dataclasses.replace(REWARD, shape=None)),))))
