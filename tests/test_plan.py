"""Plans without a compiler: what is asked of a machine, and what is tried when it does not fit."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest
from made_feedback import fed
from made_pairs import dpo
from made_runs import run_here
from made_runs import tiny_lm as small_lm

from jaxalign.config.load import load, override, validate
from jaxalign.errors import ConfigError, ModelError
from jaxalign.evals.robust_win_rate import RobustWinRate
from jaxalign.evals.text import Text
from jaxalign.feedback.sampled import pairs_of_a_prompt
from jaxalign.machine import Machine, Placement
from jaxalign.mesh.sharding import MeshShape, bytes_per_device
from jaxalign.models import releases
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen
from jaxalign.models.pretrained import Pretrained
from jaxalign.pairings.even_pairs import EvenPairs
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.pairings.large_margin import LargeMargin
from jaxalign.pairs import AllPairs, RandomPair, SoftLabel
from jaxalign.plan.alternatives import alternatives
from jaxalign.plan.chips import topology
from jaxalign.plan.compiled import model_flops
from jaxalign.plan.evaluation import asked
from jaxalign.plan.lowered import programs
from jaxalign.plan.plan import chosen
from jaxalign.plan.schedule import calls
from jaxalign.plan.target import model_of, sizes_of
from jaxalign.programs import check_batches
from jaxalign.references.following import Following
from jaxalign.references.live import Live
from jaxalign.references.of_run import OfRun
from jaxalign.rollouts.geometric_mixture import GeometricMixture
from jaxalign.step_rules.extragradient import Extragradient
from jaxalign.training.logps import Scorer
from jaxalign.training.one_prompt import OnePrompt
from jaxalign.training.pair_scores import PairScorer
from jaxalign.training.rows import RowShape, Sizes

CONFIGS = Path(__file__).parents[1] / "configs"
PAPER_SCALE = sorted(CONFIGS.glob("*_v[0-9]*_*.py"))


def tiny():
    return load(CONFIGS / "tiny_lm.py")


# ----------------------------------------------------------------------------------------------------------------------
# What is planned


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        (releases.LLAMA3_8B, 8_030_261_248),
        (releases.LLAMA3_70B, 70_553_706_496),
        (releases.QWEN2_1P5B, 1_543_714_304),
        (releases.QWEN25_7B, 7_615_616_512),
    ],
)
def test_shapes_of_releases_have_the_published_number_of_parameters(shape, count):
    model = model_of(Pretrained("nowhere", shape=shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(model.abstract())) == count


def test_a_described_model_loads_and_speaks_nothing():
    model = model_of(Pretrained("nowhere", shape=releases.QWEN2_1P5B))
    for ask in (model.load, lambda: model.chat.encode([]), lambda: model.chat.decode([])):
        with pytest.raises(ModelError, match="only described"):
            ask()
    with pytest.raises(ModelError, match="states no `shape`"):
        model_of(Pretrained("nowhere"))
    adapted = model_of(LoRA(Pretrained("nowhere", shape=releases.QWEN2_1P5B)))
    assert model.abstract().keys() == adapted.abstract().keys()


def test_files_that_differ_from_the_stated_shape_are_refused():
    source, path = Pretrained("here", compute_dtype="bfloat16", shape=releases.QWEN2_1P5B), Path("here/config.json")
    read = releases.QWEN2_1P5B
    assert source.computing(read, path) == dataclasses.replace(read, compute_dtype="bfloat16")
    with pytest.raises(ModelError, match=r"config\.json: layers is 99, but the experiment expects 28"):
        source.computing(dataclasses.replace(read, layers=99), path)


@pytest.mark.parametrize("path", PAPER_SCALE, ids=lambda path: path.stem)
def test_paper_scale_configs_are_valid_and_name_a_machine_that_fits_their_mesh(path):
    experiment = load(path)
    validate(experiment)
    target = topology(experiment.placement.topology, experiment.placement.mesh.slices)
    assert target.devices == math.prod(experiment.placement.mesh.sizes.values())
    shards = math.prod(experiment.placement.mesh.sizes[axis] for axis in ("slice", "data", "fsdp", "expert"))
    check_batches(experiment, shards)
    assert "chip-hours" in path.read_text(), "the plan's output belongs into the docstring"
    with pytest.raises(ConfigError, match="must be a multiple"):
        check_batches(experiment, 3 * shards)


def test_there_are_paper_scale_configs():
    assert len(PAPER_SCALE) >= 5


def test_rows_are_as_long_as_the_experiment_allows():
    experiment = tiny()
    model = experiment.model.open()
    room = model.config.context - 24
    assert sizes_of(experiment, model) == Sizes(room, 24, answers=experiment.feedback.rollout.samples)
    limited = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, max_prompt_tokens=40))
    found = sizes_of(limited, model)
    assert found.rows == RowShape(row=96, scored=64, response=32)  # 40 + 2 · 24, 2 · 24 and 24, in multiples of 32


@pytest.mark.parametrize("tokens", [0, 88])
def test_responses_that_leave_prompts_no_room_are_refused(tokens):
    experiment = tiny()
    model = experiment.model.open()
    most = model.config.context + tokens
    longest = fed(experiment, rollout=dataclasses.replace(experiment.feedback.rollout, max_tokens=most))
    with pytest.raises(ConfigError, match=f"less the {most} tokens of a response leaves prompts no room"):
        sizes_of(longest, model)


def test_programs_are_lowered_from_shapes_alone_and_run_as_a_session_runs_them():
    """On this machine's own devices: what is compiled is a program that its arguments fit."""
    placement = Placement(MeshShape(data=2, fsdp=2, tensor=2))
    experiment = dataclasses.replace(tiny(), placement=placement, reference=Live())
    found = programs(experiment, Machine(experiment.model.open(), placement, 0), Sizes(32, 24))
    # one answer to each of so many prompts: as many rows as of training, and more prompts
    assert [program.name for program in found] == ["train", "logp", "answers", "rollout", "evaluation/rollout"]
    train, logp, answers, rollout, _ = found
    state = train.arguments[0]
    # parameters and two moments in fp32; the policy that the fit began with stays beside them
    assert 3 * train.resident == pytest.approx(bytes_per_device((state.params, state.opt_state)), abs=100)
    assert train.work.tokens == experiment.fit.batch_size * 96
    assert train.work.passes == ("train", "forward", "forward")
    assert (logp.work.passes, rollout.work.passes) == (("forward",), ("forward",))
    # certificates read all four answers of a prompt in one row, beside the policy that gave them
    assert (answers.arguments[1].rows.tokens.shape, answers.resident) == ((16, 608), train.resident)
    for program in found:
        assert "sharding" in program.lower().as_text()


def test_a_step_that_looks_ahead_is_planned_with_who_did():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=1)))
    ahead = dataclasses.replace(experiment, step_rule=Extragradient())
    found = (
        programs(each, Machine(each.model.open(), each.placement, 0), Sizes(32, 24)) for each in (experiment, ahead)
    )
    plain, extra = (train.resident for train, *_ in found)
    assert extra == 2 * plain > 0


def test_a_mixture_is_planned_with_the_passes_and_the_cache_of_two():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=1)))
    mixed = fed(experiment, rollout=GeometricMixture(experiment.feedback.rollout, share=0.5))
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    alone, both = (chosen(programs(each, machine, Sizes(32, 24)), ("rollout",))[0] for each in (experiment, mixed))
    assert bytes_per_device(both.arguments[0]) == 2 * bytes_per_device(alone.arguments[0])
    assert model_flops(both, machine.model) == 2 * model_flops(alone, machine.model)
    assert (both.work.cached, both.work.kept) == (2 * alone.work.cached, 2 * alone.work.kept)
    assert both.work.tokens == alone.work.tokens


def test_a_head_on_a_frozen_trunk_is_planned_as_it_runs():
    """The trunk reads each answer once an iteration; the steps are those of the head, beside a trunk that they hold."""
    placement = Placement(MeshShape(fsdp=2), score_batch_size=8)
    experiment = dataclasses.replace(load(CONFIGS / "preference" / "bt_tiny.py"), placement=placement)
    machine = Machine(experiment.model.open(), placement, 0)
    train, features, left_out = found = programs(experiment, machine, Sizes(32, 24))
    assert [program.name for program in found] == ["train", "features", "left_out"]
    assert model_flops(left_out, machine.model) == model_flops(train, machine.model) / 3
    head = math.prod(machine.model.abstract()["score"].shape)
    # 8 pairs a step are 16 answers through the head, forward and backward, and nothing else
    assert model_flops(train, machine.model) == 3 * 2 * 16 * head
    assert train.resident >= bytes_per_device(frozen(machine.abstract)) > 0
    assert (features.work.rows_tokens, features.work.row, features.work.scored) == (8 * 256, 256, 0)
    assert features.arguments[1].rows.tokens.shape == (8, 256)
    assert model_flops(features, machine.model) > 100 * model_flops(train, machine.model)
    for program in found:
        assert "sharding" in program.lower().as_text()
    # three epochs in batches of 8; once through the trunk in batches of 8
    groups = experiment.feedback.count(machine)
    heldout = experiment.feedback.apart(machine)["heldout"]
    steps = 3 * -(-groups // 8)
    assert calls(experiment, machine) == {
        "train": steps,
        "logp": 0,
        "features": -(-groups // 8) + -(-heldout // 8),
        # every four steps, and at the end of base and of what is trained
        "left_out": (-(-steps // 4) + 2) * -(-heldout // 8),
    }


def test_programs_are_chosen_by_name():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=1)))
    found = programs(experiment, Machine(experiment.model.open(), experiment.placement, 0), Sizes(32, 24))
    assert [program.name for program in chosen(found, ("rollout", "train"))] == ["train", "rollout"]
    assert chosen(found, ()) == list(found)
    with pytest.raises(ConfigError, match="no program 'judge'; of this experiment there are train, logp, answers"):
        chosen(found, ("judge",))


# ----------------------------------------------------------------------------------------------------------------------
# How often, how long


def test_calls_of_a_run_are_counted_as_the_loop_makes_them():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=2), rollout_rows=32))
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    # 4 iterations; 16 prompts in batches of 8; 2 pairs a prompt in batches of 8; two cached references by 16 groups
    # and the answers of five policies to 16 held-out prompts together. In the second iteration of a round the anchor
    # reads all answers, 16 prompts in one batch, and is not asked again
    answers = {"rollout": 4 * 2, "evaluation/rollout": 5, "answers": 2}
    assert calls(experiment, machine) == {"train": 4 * 4, "logp": 4 * 2 * 2 - 2 * 2, **answers}
    assert calls(dataclasses.replace(experiment, reference=Live()), machine)["logp"] == 0
    shared = dataclasses.replace(experiment, fit=dataclasses.replace(experiment.fit, scored_rows=OnePrompt(2)))
    assert calls(shared, machine) == {"train": 4 * 4, "logp": 4 * 2 * 1 - 2, **answers}


def test_what_is_left_out_of_fits_is_scored_and_not_trained_on():
    """Eight of sixteen prompts are: four are evaluated before and after the first of two steps and after the second,
    four before and after the fit."""
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=2)))
    experiment = fed(experiment, validation=0.25, unseen=0.25)
    experiment = dataclasses.replace(experiment, fit=dataclasses.replace(experiment.fit, evaluate_every=1))
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    assert experiment.feedback.apart(machine) == {"validation": 8, "unseen": 8}
    found = calls(experiment, machine)
    # eight pairs each are half a batch of what is scored, under both references
    assert (found["train"], found["left_out"]) == (4 * 2, 4 * (3 + 2))
    assert found["logp"] == 4 * 2 * (1 + 1 + 1) - 2 * (1 + 1 + 1)
    follows = calls(dataclasses.replace(experiment, reference=Following()), machine)
    assert follows["left_out"] == 4 * (2 * 3 + 2), "evaluated against the anchor where it stands, too"


def counted(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[int]:
    """Grows by what each call of the method gives."""
    whole, given = getattr(kind, name), list[int]()

    def counting(*arguments, **settings):
        for each in whole(*arguments, **settings):
            given.append(len(each[0]))
            yield each

    monkeypatch.setattr(kind, name, counting)
    return given


@pytest.mark.parametrize("what", ["recorded", "sampled"])
def test_a_run_scores_as_often_as_planned(what, monkeypatch, tmp_path):
    if what == "recorded":
        experiment = dpo("--fit.evaluate_every", "3")
    else:
        shares = ("--feedback.validation", "0.25", "--feedback.unseen", "0.25", "--fit.evaluate_every", "1")
        experiment = small_lm(*shares, "--fit.batch_size", "4", "--placement.score_batch_size", "4")
        evaluation = dataclasses.replace(experiment.evaluation, evals=(Text(),))
        # two pairs of each prompt, whatever it says; the anchor is never the policy but at first
        experiment = dataclasses.replace(experiment, swap_every=None, evaluation=evaluation)
    left_out, logp = (counted(monkeypatch, kind, "batches") for kind in (PairScorer, Scorer))
    run_here(experiment, tmp_path)
    machine = Machine(experiment.model.open(), experiment.placement, experiment.seed)
    planned = calls(experiment, machine)
    assert len(left_out) == planned["left_out"] > 0
    # In the first iteration the anchor is the policy that sampled: four batches less. In the second it reads all
    # answers for the certificates, in two batches, and references look them up.
    assert planned.get("answers", 0) == (2 if what == "sampled" else 0)
    assert planned["logp"] + planned.get("answers", 0) - len(logp) == (4 if what == "sampled" else 0)


def test_held_out_pairs_are_scored_by_policies_that_are_evaluated():
    every = dpo("--iterations", "4", "--swap_every", "none")
    second = dataclasses.replace(every, evaluation=dataclasses.replace(every.evaluation, every=2))
    machine = Machine(every.model.open(), every.placement, every.seed)
    one, other = (calls(each, machine)["left_out"] for each in (every, second))
    assert one - other == (5 - 3) * 2, "fourteen pairs are two batches"


def test_what_no_fit_trains_on_is_scored_beside_all_that_it_keeps():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=1)))
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    policy = bytes_per_device(machine.abstract)

    def planned(**changes):
        made = fed(dataclasses.replace(experiment, **changes), unseen=0.25)
        train, *_, left_out = (each for each in programs(made, machine, Sizes(32, 24)) if each.name in names)
        return train, left_out

    names = ("train", "left_out")
    train, left_out = planned()
    assert left_out.resident == policy, "behind the fit, the policy that it began with"
    assert left_out.arguments[-1].rows.tokens.shape == train.arguments[-1].rows.tokens.shape
    assert model_flops(left_out, machine.model) == pytest.approx(model_flops(train, machine.model) / 3)
    inside = dataclasses.replace(experiment.fit, evaluate_every=1)
    train, left_out = planned(fit=inside)
    state = train.arguments[0]
    assert left_out.resident == bytes_per_device(state.opt_state) + policy
    _, left_out = planned(fit=inside, reference=Live())
    assert left_out.resident == bytes_per_device(state.opt_state) + 3 * policy
    _, left_out = planned(fit=inside, reference=Following())
    assert left_out.resident == bytes_per_device(state.opt_state) + policy
    assert bytes_per_device(left_out.arguments[2]["anchor"]) == policy
    assert "sharding" in left_out.lower().as_text()


def test_policies_of_other_runs_answer_beside_the_base():
    experiment = dataclasses.replace(tiny(), placement=Placement(MeshShape(fsdp=2)))
    others = (OfRun("one"), OfRun("two"))
    pool = (RobustWinRate(earlier=2), *experiment.evaluation.evals)
    evaluation = dataclasses.replace(experiment.evaluation, others=others, evals=pool)
    opposed = dataclasses.replace(experiment, evaluation=evaluation)
    machine = Machine(experiment.model.open(), experiment.placement, 0)
    alone, beside = (programs(each, machine, Sizes(32, 24))[-1] for each in (experiment, opposed))
    assert beside.resident == alone.resident + bytes_per_device(machine.abstract)
    assert calls(opposed, machine)["evaluation/rollout"] == 5 + 2
    # WinRate asks about base and previous, which are one up to the first iterate; Cycles about all that there are; the
    # table at the end shows all five; RobustWinRate asks about base, previous and two others
    assert asked(experiment) == {2: 1 + 2 + 2 + 2 + 2, 1: 1, 3: 1, 4: 1, 5: 1 + 1}
    assert asked(opposed) == {**asked(experiment), 2: 9 + 5 * 2}


@pytest.mark.parametrize(
    ("pairing", "count"),
    [
        (AllPairs(), 6),
        (RandomPair(3, SoftLabel()), 3),
        (EvenPairs(), 6),
        (EveryAnswer(), 4),
        # win rates are .875, .625, .375 and .125 where the oracle is sure: six pairs, and one, so far apart
        (LargeMargin(0.1), 6),
        (LargeMargin(0.6), 1),
    ],
)
def test_pairs_of_a_prompt_are_asked_of_the_pairing(pairing, count):
    assert pairs_of_a_prompt(pairing, 4) == count


# ----------------------------------------------------------------------------------------------------------------------
# What else could be done


def test_alternatives_go_from_cheap_to_dear_and_keep_what_was_changed():
    experiment = load(CONFIGS / "comal_llama3_8b_v5p_64.py")
    experiment = dataclasses.replace(
        experiment,
        placement=dataclasses.replace(experiment.placement, remat="dots"),
        fit=dataclasses.replace(experiment.fit, batch_size=256),
    )
    options = [option for option, _ in alternatives(experiment, 64)]
    twice = "--placement.remat full --placement.accumulate 4"
    assert options == [
        "--placement.remat attention",
        "--placement.remat full",
        "--placement.remat full --placement.accumulate 2",
        twice,
        f"{twice} --placement.reference_memory pinned_host",
        f"{twice} --placement.reference_memory pinned_host --placement.optimizer_memory pinned_host",
    ]
    for option, changed in alternatives(experiment, 64):
        validate(changed)
        assert override(experiment, option.split()) == changed


def test_what_is_at_its_smallest_has_no_alternatives():
    experiment = tiny()
    smallest = dataclasses.replace(experiment, placement=Placement(remat="full", optimizer_memory="pinned_host"))
    assert list(alternatives(smallest, 8)) == []
