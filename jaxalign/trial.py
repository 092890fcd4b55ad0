"""A fit on trial: held-out pairs are scored between its steps, the best state stays, and no better ones end it.

An evaluation is a pure function of the state, so a fit that is continued from a checkpoint sees what the uninterrupted
one saw: the losses seen so far travel with the checkpoint, and the states that were best lie beside it.
"""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from jaxalign.errors import Interrupted
from jaxalign.session import Session
from jaxalign.training.evaluations import Evaluations
from jaxalign.training.pair_scores import PairScores
from jaxalign.training.step import NotFinite, TrainState
from jaxalign.types import Params


class Trial:
    """The evaluations of iteration `iteration`'s fit of `total` steps. `base` is what the fit leaves frozen."""

    def __init__(self, session: Session, iteration: int, total: int, base: Params):
        self._session, self._iteration, self._base = session, iteration, base
        self._seen = Evaluations(session.experiment.fit, total)

    def recall(self, meta: Mapping[str, Any]) -> None:
        """Goes on from what a checkpoint of the fit carries."""
        for step, loss in meta["evaluations"]:
            self._seen.losses[step] = loss

    @property
    def meta(self) -> dict[str, Any]:
        """For a checkpoint to carry."""
        return {"iteration": self._iteration, "evaluations": [[step, loss] for step, loss in self._seen.losses.items()]}

    @property
    def over(self) -> bool:
        """Whether the fit has stopped to improve."""
        return self._seen.over

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be evaluated."""
        return self._seen.due(step)

    def passes(self, step: int, state: TrainState) -> bool:
        """Evaluates the state after `step` steps if it is due, and keeps it where it is the best so far.

        False if a stop was asked for in the middle: then nothing has happened, and who continues evaluates it.
        """
        if not self.due(step):
            return True
        began = time.perf_counter()
        try:
            metrics = self._scores(step, state.params).metrics()
        except Interrupted:
            return False
        if not math.isfinite(metrics["loss"]):
            raise NotFinite(f"fit: the loss of the held-out pairs is {metrics['loss']} after {step} steps")
        recorder = self._session.recorder
        recorder.log(self._iteration, "heldout", step, {f"heldout/{name}": value for name, value in metrics.items()})
        recorder.perf(self._iteration, "heldout", step, {"perf/seconds": time.perf_counter() - began})
        self._seen.losses[step] = metrics["loss"]
        if self._session.experiment.fit.keep == "best" and self._seen.best() == step:
            self._session.run.keep_best(self._iteration, step, state.params)
        return True

    def forget(self, checkpoints: list[int]) -> None:
        """Deletes states that no checkpoint, of these steps, may need again."""
        self._session.run.prune_best(self._iteration, self._seen.kept(checkpoints))

    def chosen(self, state: TrainState, abstract: Params) -> Params:
        """The parameters that become the policy, `state` being the last one."""
        best = self._seen.best()
        if best is None:
            return state.params
        last = max(self._seen.losses)
        kept = best if self._session.experiment.fit.keep == "best" else last
        told = {"fit/steps": float(last), "fit/kept_step": float(kept)}
        self._session.recorder.log(self._iteration, "kept", 0, told)
        if self.over and self._session.hosts.leader:
            said = f"the fit ends after step {last}: its held-out loss was least after step {best}"
            print(f"{self._session.title(self._iteration)} {said}", file=sys.stderr, flush=True)
        return state.params if kept == last else self._session.run.best(self._iteration, kept).load(abstract)

    def _scores(self, step: int, params: Params) -> PairScores:
        what = f"held-out pairs after step {step}"
        return self._session.pair_scores(self._iteration, params, self._base, self._iteration, what)
