"""Whether a microbatch can be split over the mesh, which a run refuses before its first iteration, and whether its rows
have places for more pairs than a prompt has."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.errors import ConfigError
from jaxalign.feedback.recorded import Recording
from jaxalign.mesh.sharding import row_shards
from jaxalign.programs import check_batches, groups_a_microbatch


@dataclass(frozen=True)
class Batches:
    """Rows a microbatch must be a multiple of the shards that rows are split over."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        experiment, mesh = opened.experiment, opened.machine.mesh
        measured = {
            "devices": mesh.size,
            "row_shards": row_shards(mesh),
            "groups_a_microbatch": groups_a_microbatch(experiment),
        }
        try:
            check_batches(experiment, row_shards(mesh))
        except ConfigError as refusal:
            yield judged("batches over the mesh", measured, [str(refusal)])
        else:
            yield judged("batches over the mesh", measured, [])
        if experiment.fit.groups_a_row > 1:
            yield self.shared(opened)

    def shared(self, opened: Opened) -> Outcome:
        """How many places of a row are of use."""
        fit = opened.experiment.fit
        recorded = opened.comparer.pairs if isinstance(opened.comparer, Recording) else None
        _, counts = np.unique((opened.groups if recorded is None else recorded).prompts, return_counts=True)
        most = int(np.max(counts, initial=1))
        rows = int(np.ceil(counts / fit.groups_a_row).sum())
        used = int(counts.sum()) / max(rows * fit.groups_a_row, 1)
        measured: Measured = {"groups_a_row": fit.groups_a_row, "most_of_a_prompt": most, "places_used": used}
        note = ""
        if most < fit.groups_a_row:
            whose = "prompt" if recorded is not None else f"of the {len(counts)} prompts looked at"
            note = (
                f"no {whose} has more than {most} pairs: with fit.groups_a_row {fit.groups_a_row} a step of "
                f"fit.batch_size {fit.batch_size} has {fit.batch_size * used:.0f} pairs on average and empty places"
            )
        return judged("pairs that share a row", measured, [], note)


CHECK = Batches()
