"""The settings of an experiment as leaves by path, and the help that lists them."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from made_experiment import HOME, LEAVES, Everything, Hinge, WinRate, refusal

from jaxalign.config.load import components, exchanged, flatten, help_text
from jaxalign.config.overrides import Leaf
from jaxalign.config.settings import Unbounded, name_of


def test_every_field_is_a_leaf_or_holds_leaves() -> None:
    def count(value: Any) -> int:
        if dataclasses.is_dataclass(value):
            return sum(count(getattr(value, field.name)) for field in dataclasses.fields(value))
        if isinstance(value, tuple | list) and any(map(dataclasses.is_dataclass, value)):
            return sum(map(count, value))
        if isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
            return sum(map(count, value.values()))
        return 1

    assert len(LEAVES) == count(Everything())
    assert {"loss.eta", "optim.schedule.warmup", "evals.2.resamples", "named.short.resamples", "no_evals"} <= set(
        LEAVES
    )


def test_components_go_by_path_and_can_be_exchanged() -> None:
    experiment = Everything()
    found = components(experiment)
    assert list(found)[:4] == ["", "loss", "optim", "optim.schedule"]
    assert {"evals.0", "evals.2", "named.short"} <= set(found)
    assert found["evals.2"] is experiment.evals[2]
    assert exchanged(experiment, lambda component: component) is experiment

    def more(component: Any) -> Any:
        return dataclasses.replace(component, resamples=7) if isinstance(component, WinRate) else component

    other = exchanged(experiment, more)
    assert other.evals == (WinRate(7), experiment.evals[1], WinRate(7))
    assert other.named == {"short": WinRate(7)}
    assert dataclasses.replace(other, evals=experiment.evals, named=experiment.named) == experiment
    assert experiment.evals[0] == WinRate()


def test_leaves_have_value_annotation_and_description() -> None:
    assert LEAVES["loss.eta"] == Leaf(0.1, float, "weight of the KL, in 1/nats")
    assert LEAVES["evals.0.resamples"] == Leaf(100, int, "bootstrap resamples")
    assert LEAVES["optim.clip"].annotation == Unbounded
    hinge = flatten(Everything(loss=Hinge()))
    assert hinge["loss.eta"].doc == LEAVES["loss.eta"].doc
    assert hinge["loss.slope"].doc == "of the hinge"
    assert hinge["loss.eta"].value == 1.0


def test_description_is_empty_without_source() -> None:
    made = dataclasses.make_dataclass("Made", [("size", int, 3)], frozen=True)
    assert flatten(made()) == {"size": Leaf(3, int, "")}
    assert "--size int = 3" in help_text(made(), "nowhere.py")


def test_paths_that_collide_are_refused() -> None:
    wrong = Everything(named={"a": WinRate(), "a.resamples": WinRate()})
    assert "named.a.resamples: two settings have this path" in refusal(flatten, wrong)[0]


def test_unresolvable_annotation_names_the_class() -> None:
    made = dataclasses.make_dataclass("Made", [("size", "Unknown", 3)], frozen=True)
    assert re.search(r"Made: an annotation cannot be resolved: .*Unknown", refusal(flatten, made())[0])


def test_help_mentions_every_leaf_and_component(tmp_path: Path) -> None:
    file = tmp_path / "lab.py"
    file.write_text(f'"""A lab note.\n\nOne\nparagraph.\n\n    as laid out\n    in lines\n\n{"word " * 60}\n"""\n')
    shown = help_text(Everything(name="n" * 300, words=("w" * 30,) * 20), file)
    assert max(map(len, shown.splitlines())) <= 100
    assert "\nA lab note.\n\nOne paragraph.\n\n    as laid out\n    in lines\n\nword word" in shown
    for path, leaf in LEAVES.items():
        assert f"  --{path} {name_of(leaf.annotation)} = " in shown
        assert leaf.doc in " ".join(shown.split())
    assert f"loss ({HOME}:Squared)\n  Squared loss.\n  --loss.eta float = 0.1\n      weight of the KL" in shown
    assert f"evals.1 ({HOME}:Nothing)" in shown
    assert "second paragraph" not in shown
