"""Fits of six steps of the three-action game, by the command line."""

import dataclasses
import pathlib
from collections.abc import Callable

import pytest

from jaxalign import fit
from jaxalign.__main__ import main
from jaxalign.session import Session
from jaxalign.training.step import Step

GAME = str(pathlib.Path(__file__).parents[1] / "configs" / "games" / "three_action.py")
STEPS = 6


def train(workdir: pathlib.Path, *options: str, iterations: int = 1, every: int = 2) -> int:
    """The three-action game with fits of six steps, `every` so many a checkpoint."""
    small = ("--iterations", str(iterations), "--swap_every", "none", "--fit.epochs", str(STEPS))
    return main(["train", GAME, "--workdir", str(workdir), *small, "--fit.checkpoint_every", str(every), *options])


def changed_step(monkeypatch: pytest.MonkeyPatch, wrap: Callable[[Step], Step]) -> None:
    """Every fit takes `wrap(step)` in place of its step."""
    whole = Session.training

    def training(session, steps, closing=False):
        made = whole(session, steps, closing)
        return dataclasses.replace(made, step=wrap(made.step))

    monkeypatch.setattr(Session, "training", training)


def same_when_cut_short(
    run: Callable[[pathlib.Path], int], home: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> bytes:
    """The metrics of a run, which one whose fourth batch fails, and that is then continued, ends with to the byte."""
    assert run(home / "whole") == 0
    made, original = [], fit.make_batch

    def failing(*arguments):
        made.append(1)
        if len(made) == 4:
            raise ZeroDivisionError
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "make_batch", failing)
        with pytest.raises(ZeroDivisionError):
            run(home / "cut")
    assert run(home / "cut") == 0
    whole, cut = ((home / name / "metrics.jsonl").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    return whole
