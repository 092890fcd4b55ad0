"""A fit on trial: pairs that it does not see are scored between its steps, the best state stays, and no better ones end
it; so does a step that finds the policy outside of its trust region (`training.trust`).

An evaluation is a pure function of the state, so a fit that is continued from a checkpoint sees what the uninterrupted
one saw: the losses seen so far travel with the checkpoint, and the states that were best lie beside it.
"""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax

from jaxalign.errors import Interrupted
from jaxalign.fits.objective import Watch
from jaxalign.session import Session
from jaxalign.training.evaluations import Evaluations
from jaxalign.training.step import NotFinite, TrainState
from jaxalign.training.trust import KL
from jaxalign.types import Metrics, Params

AS_FITTED = "loss_as_fitted"
"""Of held-out metrics, where references move: the loss that the fit descends, against them as they stand at the step.
Steps are chosen by `loss`, which is against what they were when the fit began."""


class Trial:
    """What `watch` sees of iteration `iteration`'s fit of `total` steps."""

    def __init__(self, session: Session, iteration: int, total: int, watch: Watch):
        self._session, self._iteration, self._scores = session, iteration, watch.scores
        self._spec = session.experiment.fit
        self._seen = Evaluations(self._spec, total, start=watch.start)
        self._left: tuple[int, float] | None = None  # the step that was not taken, and the KL that it found

    def recall(self, meta: Mapping[str, Any]) -> None:
        """Goes on from what a checkpoint of the fit carries."""
        for step, loss in meta["evaluations"]:
            self._seen.losses[step] = loss

    @property
    def meta(self) -> dict[str, Any]:
        """For a checkpoint to carry."""
        return {"iteration": self._iteration, "evaluations": [[step, loss] for step, loss in self._seen.losses.items()]}

    @property
    def steps(self) -> int:
        """Those of the fit, as far as is known: fewer where it has left its trust region."""
        return self._seen.total

    @property
    def over(self) -> bool:
        """Whether the fit has stopped to improve, or its trust region is left."""
        return self._left is not None or self._seen.over

    def heed(self, step: int, metrics: Metrics) -> None:
        """Takes note of what a step says. Where the KL before it is above the limit it has changed nothing, and the fit
        has so many steps."""
        limit = self._spec.max_kl
        if limit is not None and metrics[KL] > limit:
            self._left, self._seen.total = (step, metrics[KL]), step

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be evaluated."""
        return self._scores is not None and self._seen.due(step)

    def passes(self, step: int, state: TrainState) -> bool:
        """Evaluates the state after `step` steps if it is due, and keeps it where it is the best so far.

        False if a stop was asked for in the middle: then nothing has happened, and who continues evaluates it.
        """
        if self._scores is None or not self.due(step):
            return True
        began, what = time.perf_counter(), f"held-out pairs after step {step}"
        try:
            metrics = self._scores(state.params, what).metrics()
            if state.references:
                against = self._scores(state.params, f"{what}, against what has moved", state.references)
                metrics[AS_FITTED] = against.metrics()["loss"]
        except Interrupted:
            return False
        if not math.isfinite(metrics["loss"]):
            raise NotFinite(f"fit: the loss of the held-out pairs is {metrics['loss']} after {step} steps")
        recorder = self._session.recorder
        recorder.log(self._iteration, "heldout", step, {f"heldout/{name}": value for name, value in metrics.items()})
        recorder.perf(self._iteration, "heldout", step, {"perf/seconds": time.perf_counter() - began})
        self._seen.losses[step] = metrics["loss"]
        if self._spec.keep == "best" and self._seen.best() == step:
            self._session.run.keep_best(self._iteration, step, self._kept(state))
        return True

    def forget(self, checkpoints: list[int]) -> None:
        """Deletes states that no checkpoint, of these steps, may need again."""
        self._session.run.prune_best(self._iteration, self._seen.kept(checkpoints))

    def chosen(self, state: TrainState, abstract: TrainState) -> Params:
        """What becomes of the fit, `state` being the last one: "params" of the policy and, where the next fit goes on
        from them, the "moments" of the same step. Another state's take the room of the last one, which is gone then."""
        best, last = self._seen.best(), self.steps
        if self._seen.over and self._left is None:
            last = max(self._seen.losses)
        if best is None and self._left is None:
            return self._kept(state)
        kept = last if best is None or self._spec.keep == "last" else best
        told = {"fit/steps": float(last), "fit/kept_step": float(kept)}
        self._session.recorder.log(self._iteration, "kept", 0, told)
        self._tell(last, best)
        if kept == last:
            return self._kept(state)
        jax.tree.map(lambda leaf: leaf.delete(), state)
        return self._session.run.best(self._iteration, kept).load(self._kept(abstract))

    def _kept(self, state: TrainState) -> Params:
        moments = {"moments": state.opt_state} if self._spec.moments == "kept" else {}
        return {"params": state.params, **moments}

    def _tell(self, last: int, best: int | None) -> None:
        if not (self.over and self._session.hosts.leader):
            return
        why = f"its held-out loss was least after step {best}"
        if self._left is not None:
            why = f"KL(last ‖ policy) is {self._left[1]:.3g} nats an answer, more than fit.max_kl"
        print(
            f"{self._session.title(self._iteration)} the fit ends after step {last}: {why}", file=sys.stderr, flush=True
        )
