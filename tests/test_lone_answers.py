"""Lone answers: from files of answers that were judged or rated one by one to a model and its metrics."""

import dataclasses
import json
import pathlib
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import pytest
from made_comparisons import read
from made_pairs import Likelier, alone, dpo, inline
from made_runs import run_here, tiny_lm

from jaxalign.__main__ import main
from jaxalign.config.load import load, override, validate
from jaxalign.data.comparisons.alone import Alone
from jaxalign.data.comparisons.mixture import Mixture, parts
from jaxalign.data.comparisons.pairs import EXAMPLE as PAIRS
from jaxalign.data.comparisons.ranked import Ranked
from jaxalign.data.comparisons.rated import Rated
from jaxalign.data.comparisons.unpaired import EXAMPLE as UNPAIRED
from jaxalign.data.comparisons.unpaired import Unpaired
from jaxalign.data.comparisons.votes import EXAMPLE as VOTES
from jaxalign.data.tables.file import File
from jaxalign.data.tables.inline import Inline
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import ConfigError, DataError
from jaxalign.evals.calibration import Calibration
from jaxalign.evals.pairs import HeldOutPairs
from jaxalign.experiment import Evaluation
from jaxalign.feedback.recorded import Recorded
from jaxalign.losses.bradley_terry import BradleyTerry
from jaxalign.losses.classes import Ratings
from jaxalign.losses.kto import KTO
from jaxalign.models.headed import Headed
from jaxalign.models.random_llama import RandomLlama
from jaxalign.pairings.every_answer import EveryAnswer
from jaxalign.storage.rundir import read_run
from jaxalign.training.optim import AdamW, WarmupLinear
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.scored import ReferenceLogps

TINY = pathlib.Path(__file__).parents[1] / "configs" / "preference" / "desirable_tiny.py"
NAMES = ("Ada", "Bo", "Cy", "Dee", "Eli", "Fay", "Gus", "Hal")


def tiny(*overrides):
    return override(load(TINY), ("--placement.mesh.fsdp", "1", *overrides))


def changed(experiment, **changes):
    return dataclasses.replace(experiment, feedback=dataclasses.replace(experiment.feedback, **changes))


def lines(workdir, phase):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["phase"] == phase]


def file_of(path: pathlib.Path, names, said, **columns) -> pathlib.Path:
    """One answer a row: each of `said` to each name, with what `columns` say of it."""
    with open(path, "w") as file:
        for name in names:
            for index, text in enumerate(said):
                row = {"prompt": f"Hi, I am {name}.", "completion": text.format(name)}
                print(json.dumps({**row, **{key: values[index] for key, values in columns.items()}}), file=file)
    return path


# --------------------------------------------------------------------------------------------------------------
# What is read


def test_pairs_taken_apart_say_of_each_answer_what_they_said_of_both():
    """An answer in several pairs of a row comes once, with its mean P(better) and the sum of their weights."""
    source = Alone(
        Ranked(
            Inline((json.dumps({"prompt": "Why?", "answers": ["a", "b", "c"], "ratings": [3, 1, 3]}),)),
            rating_field="ratings",
        )
    )
    found = {each.answers[0]: each for each in read(source)}
    assert {text: each.prefer for text, each in found.items()} == {"a": 0.75, "b": 0.0, "c": 0.75}
    assert {text: each.scores for text, each in found.items()} == {"a": (3.0,), "b": (1.0,), "c": (3.0,)}
    assert [each.weight for each in found.values()] == pytest.approx([2 / 3] * 3)
    assert [each.prefer for each in read(Alone(PAIRS))] == [1.0, 0.0, 1.0, 0.0]


def test_votes_taken_apart_keep_their_annotators():
    """What nobody has said stays unsaid."""
    better, worse, *_, last = read(Alone(VOTES))
    assert (better.answers, better.votes, worse.votes) == (("Because.",), (1.0, 1.0, 0.5), (0.0, 0.0, 0.5))
    assert last.votes == (0.0, None, None)


def test_a_rating_is_a_place_on_its_scale():
    row = {"prompt": "Why?", "completion": "So."}
    ranks = Rated(Inline((json.dumps({**row, "rating": 2}),)), worst=5.0, best=1.0)
    assert [(each.prefer, each.scores) for each in read(ranks)] == [(0.75, None)]
    for rating, says in ((0.5, "0.5 is not between 1 and 5"), (None, "missing or null"), (True, "a number belongs")):
        with pytest.raises(DataError, match=f":1:rating: .*{says}"):
            read(Rated(Inline((json.dumps({**row, "rating": rating}),))))
    assert list(Rated(Inline(()), worst=1.0, best=1.0).problems())


def test_a_label_may_come_with_a_rating():
    row = json.dumps({"prompt": "Why?", "completion": "So.", "label": False, "stars": 4})
    (found,) = read(Unpaired(Inline((row,)), rating_field="stars"))
    assert (found.prefer, found.scores) == (0.0, (4.0,))


def test_a_mixture_of_pairs_taken_apart_keeps_its_shares():
    mixed = Alone(Mixture((PAIRS, inline(("Why?", "A", "B"))), (3.0, 1.0)))
    assert [share for share, _ in parts(mixed)] == [3.0, 1.0]
    assert all(part.responses == 1 for _, part in parts(mixed))
    with pytest.raises(ConfigError, match="pairs and lone answers do not mix"):
        validate(Mixture((PAIRS, UNPAIRED)))
    with pytest.raises(ConfigError, match="source has lone answers already"):
        validate(Alone(UNPAIRED))


# --------------------------------------------------------------------------------------------------------------
# From files to metrics


def test_answers_in_a_file_train_a_classifier_of_good_and_bad(tmp_path):
    said = ("Hello {}!", "{} who?")
    paths = (
        file_of(tmp_path / f"{name}.jsonl", names, said, label=(True, False))
        for name, names in (("train", NAMES[:6]), ("heldout", NAMES[6:]))
    )
    train, heldout = (Unpaired(File(str(path))) for path in paths)
    made = changed(tiny("--fit.epochs", "12", "--fit.batch_size", "4"), pairs=train, heldout=heldout)
    summary = run_here(made, tmp_path / "run")
    assert summary["heldout_accuracy"] == 1.0
    assert summary["heldout_loss"] < 0.5
    (told,) = lines(tmp_path / "run", "align")
    assert (told["answers/groups"], told["answers/prompts"]) == (12.0, 6.0)
    last = lines(tmp_path / "run", "fit")[-1]
    assert last["rewards/margins"] > 0
    evals = lines(tmp_path / "run", "evals")[-1]
    assert evals["heldout/margin_nats"] > 0
    assert evals["calibration/nll"] == pytest.approx(summary["heldout_loss"], rel=1e-5)  # the loss is that likelihood
    assert not any(name.startswith("length_bias") for name in evals)


def test_ratings_in_a_file_train_a_model_of_ratings(tmp_path):
    said, ratings = ("Hello {}!", "Oh, {}.", "{} who?"), (5, 3, 1)
    paths = (
        file_of(tmp_path / f"{name}.jsonl", names, said, rating=ratings)
        for name, names in (("train", NAMES[:6]), ("heldout", NAMES[6:]))
    )
    train, heldout = (Rated(File(str(path))) for path in paths)
    made = dataclasses.replace(
        changed(tiny("--fit.epochs", "15", "--fit.batch_size", "6"), pairs=train, heldout=heldout),
        model=Headed(RandomLlama(), outputs=3, trunk="frozen"),
        loss=Ratings((1.0, 3.0, 5.0)),
        optimizer=AdamW(WarmupLinear(peak=1e-1)),
        evaluation=Evaluation(evals=(HeldOutPairs(),)),
    )
    summary = run_here(made, tmp_path / "run")
    assert summary["heldout_accuracy"] == 1.0  # of the answers that are not in the middle of the scale
    assert summary["heldout_loss"] < np.log(3)
    with pytest.raises(ConfigError, match="Calibration needs log_odds, and there are none: Ratings gives none"):
        validate(dataclasses.replace(made, evaluation=Evaluation(evals=(Calibration(),))))


def test_a_policy_is_trained_on_lone_answers(tmp_path):
    """Of pairs taken apart, against cached log-probs of its anchor."""
    run_here(alone(dpo("--fit.epochs", "3")), tmp_path / "run")
    first, *_, last = lines(tmp_path / "run", "fit")
    assert first["rewards/answers"] == pytest.approx(0.0, abs=1e-5)  # rounding of log-probs
    assert last["rewards/margins"] > 0
    assert {"logps/answers", "rewards/accuracies"} < set(last)
    base, trained = lines(tmp_path / "run", "evals")
    assert (base["heldout/accuracy"], base["heldout/margin_nats"]) == (0.5, 0.0)
    assert trained["heldout/loss"] < base["heldout/loss"]


@pytest.mark.slow
def test_held_out_answers_have_the_loss_of_kto(tmp_path, capsys):
    """With strays of their own, in a run, whatever its microbatches, and when its policies are measured again."""
    settings = ("--fit.epochs", "3", "--optimizer.learning_rate.peak", "1e-2", "--fit.batch_size", "16")
    kto = dataclasses.replace(alone(dpo(*settings)), loss=KTO(1.0))
    run_here(kto, tmp_path / "run")
    run_here(override(kto, ["--placement.accumulate", "2"]), tmp_path / "parts")
    run = read_run(tmp_path / "run")
    anchor, scores = run.load("initial", "heldout_anchor", ReferenceLogps), run.load(0, "heldout_pairs", PairScores)
    assert anchor.sums.shape == (1, len(scores.loss), 2)
    assert scores.sums.shape == (len(scores.loss), 1)
    rewards = (scores.sums - scores.anchor)[:, 0]
    blind = np.where(scores.prefer > 0.5, 1 / (1 + np.exp(rewards)), 1 / (1 + np.exp(-rewards)))
    assert np.abs(scores.loss - blind).max() > 1e-3, "z is not 0"
    losses = [[line["heldout/loss"] for line in lines(tmp_path / name, "heldout")] for name in ("run", "parts")]
    np.testing.assert_allclose(*losses, rtol=1e-3)
    capsys.readouterr()
    path = file_of(tmp_path / "heldout.jsonl", (), ())
    with open(path, "w") as file:
        for each in kto.feedback.heldout.read(Tally()):
            row = {"prompt": each.prompt.text, "completion": each.answers[0], "label": each.prefer > 0.5}
            print(json.dumps(row), file=file)
    assert main(["eval", str(tmp_path / "run"), "--pairs", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evals"]["iterate-1"]
    assert found["heldout/loss"] == pytest.approx(lines(tmp_path / "run", "evals")[-1]["heldout/loss"], rel=1e-5)
    (tmp_path / "one.jsonl").write_text(path.read_text().splitlines()[0])
    assert main(["eval", str(tmp_path / "run"), "--pairs", str(tmp_path / "one.jsonl")]) == 3
    assert "--pairs: all groups have one prompt" in capsys.readouterr().err


def test_held_out_answers_of_one_prompt_have_no_stray(tmp_path):
    one = Alone(inline(("Moin, I am Zoe.", "Hello Zoe!", "Zoe who?")))
    kto = changed(dataclasses.replace(alone(dpo()), loss=KTO(1.0)), heldout=one)
    with pytest.raises(DataError, match=r"feedback\.heldout: all groups have one prompt"):
        run_here(kto, tmp_path / "run")


def test_answers_that_a_fit_of_kto_leaves_out_have_strays(tmp_path):
    """A single prompt chooses the step, and another tells what it is worth."""
    shares = ("--feedback.validation", "0.1", "--feedback.unseen", "0.1", "--fit.evaluate_every", "1")
    made = changed(tiny_lm(*shares, "--iterations", "1"), pairing=EveryAnswer())
    run_here(dataclasses.replace(made, loss=KTO(1.0), swap_every=None), tmp_path)
    run = read_run(tmp_path)
    for phase in ("references", "validation"):
        assert run.load(0, phase, ReferenceLogps).sums.shape[2] == 2, phase
    assert lines(tmp_path, "unseen")[0]["fit/heldout_loss_before"] == pytest.approx(0.5), "nothing has moved"


def test_margins_of_lone_answers_count_towards_what_is_said():
    """Log-odds 2, −1, 3 of being good, said to be good, bad and nothing: two right of two, (2 + 1 + 0) / 3 nats."""
    ones = np.ones(3, np.float32)
    sums = np.array([[2.0], [-1.0], [3.0]], np.float32)
    said = np.array([1.0, 0.0, 0.5], np.float32)
    scores = PairScores(ones, sums, np.zeros_like(sums), said, ones, np.arange(3), np.ones((3, 1), np.int32))
    assert scores.metrics() == {"loss": 1.0, "accuracy": 1.0, "margin_nats": 1.0}


def test_the_rank_of_a_lone_rating_is_above_0_in_the_upper_half_of_the_scale():
    logits = jnp.log(jnp.array([[[0.1, 0.2, 0.7]], [[0.6, 0.3, 0.1]]]))
    np.testing.assert_allclose(Ratings((1.0, 2.0, 5.0)).ranks(logits), [[1.0], [-1.3]], rtol=1e-5)


# --------------------------------------------------------------------------------------------------------------
# What is refused, before any compute


@pytest.mark.parametrize(
    ("experiment", "says"),
    [
        (lambda: changed(dpo(), pairs=UNPAIRED, heldout=None), "loss DPO reads pairs, and the feedback gives lone ans"),
        (
            lambda: dataclasses.replace(dpo(), loss=Likelier()),
            "loss Likelier reads lone answers, and .* gives pairs; `Al",
        ),
        (
            lambda: dataclasses.replace(tiny(), model=Headed(RandomLlama(), outputs=1), loss=BradleyTerry()),
            "loss BradleyTerry reads pairs, and groups are of 1",
        ),
        (
            lambda: changed(tiny(), **{name: getattr(dpo().feedback, name) for name in ("pairs", "heldout")}),
            "loss Desirable reads lone answers, and groups are of 2",
        ),
    ],
)
def test_a_loss_of_other_groups_is_refused_by_name_before_any_is_read(tmp_path, experiment, says):
    plain = {"evaluate_every": None, "keep": "last", "patience": None}
    made = experiment()
    if made.feedback.heldout is None:
        made = dataclasses.replace(made, fit=dataclasses.replace(made.fit, **plain), evaluation=Evaluation(evals=()))
    with pytest.raises(ConfigError, match=says):
        run_here(made, tmp_path / "run")
    assert not (tmp_path / "run" / "datasets").exists()


def test_lone_answers_are_not_held_out_of_pairs():
    mixed = Recorded(pairs=PAIRS, heldout=UNPAIRED)
    assert [*mixed.problems()] == [
        "heldout has lone answers, and pairs has pairs; what is held out must be like what is trained on"
    ]


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A source that says it has pairs, and has none."""

    responses: ClassVar[int] = 2

    def read(self, tally):
        return UNPAIRED.read(tally)


def test_a_source_that_has_other_groups_than_it_says_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"feedback\.pairs: has lone answers, not pairs"):
        run_here(changed(dpo("--fit.evaluate_every", "none", "--fit.keep", "last"), pairs=Wrong()), tmp_path / "run")
