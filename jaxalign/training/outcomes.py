"""What steps come to, read one step late: the host looks at a step while the devices compute the next one.

Reading a metric waits for its step. Were it read before the next step is dispatched, the devices would stand idle for
as long as the host needs to log, to ask whether to stop, and to dispatch.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
from jaxtyping import Array

from jaxalign.training.step import check_finite
from jaxalign.types import Metrics


@dataclass(frozen=True)
class Intake:
    """What went into a step: its groups, tokens and cells of its rows (padding included), and how the host came to its
    batch.

    `asked` is when the host began to wait for the batch, on the clock of `Outcomes`; `waited` how long it did, seconds.
    """

    groups: int
    tokens: int
    cells: int
    asked: float
    waited: float


class Outcomes:
    """Steps in order, each told of once: `tell(step, metrics, perf)`, in floats, after `check(step, metrics)` passed.

    perf/step_seconds            from the end of the step before, or from asking for the batch if that was later (the
                                 first step, and the one behind a checkpoint), until its own metrics were read
    perf/host_seconds            of waiting for the batch; hidden where the step before was still being computed
    perf/tokens_per_s_per_chip   tokens, padding left out, in perf/step_seconds
    perf/padding_fraction        of the cells of the rows
    perf/tokens_per_group        cells, padding included, for each group of the step
    """

    def __init__(
        self,
        tell: Callable[[int, Metrics, Metrics], None],
        check: Callable[[int, Metrics], None] = check_finite,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._tell, self._check, self.clock = tell, check, clock
        self._ended = float("-inf")
        self._open: tuple[int, Mapping[str, Array], Intake] | None = None

    def follow(self, step: int, metrics: Mapping[str, Array], intake: Intake) -> None:
        """`step` has been dispatched: reads the one before it. Raises what `check` does for that one."""
        self.settle()
        self._open = (step, metrics, intake)

    def settle(self) -> None:
        """Waits for the step that has not been read yet, if there is one. Raises what `check` does.

        Whatever keeps a state must come after it: until then nobody knows whether the state is finite.
        """
        if self._open is None:
            return
        (step, metrics, intake), self._open = self._open, None
        with jax.profiler.TraceAnnotation("read metrics"):
            seen = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._check(step, seen)
        began, self._ended = max(self._ended, intake.asked), self.clock()
        seconds = self._ended - began
        self._tell(
            step,
            seen,
            {
                "perf/step_seconds": seconds,
                "perf/host_seconds": intake.waited,
                "perf/tokens_per_s_per_chip": intake.tokens / seconds / jax.device_count(),
                "perf/padding_fraction": 1 - intake.tokens / intake.cells,
                "perf/tokens_per_group": intake.cells / intake.groups,
            },
        )
