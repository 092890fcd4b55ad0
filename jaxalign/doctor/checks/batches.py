"""Whether a microbatch can be split over the mesh, which a run refuses before its first iteration, and whether its rows
have places for more pairs than a prompt has."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from jaxalign.data.trained import as_trained
from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Measured, Outcome, judged
from jaxalign.errors import ConfigError, DataError
from jaxalign.feedback.recorded import Recording
from jaxalign.mesh.sharding import row_shards
from jaxalign.programs import check_batches, groups_a_microbatch, steps_of
from jaxalign.training.packed import Packed
from jaxalign.training.row_plan import row_tokens


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
        if isinstance(experiment.fit.rows, Packed):
            if isinstance(opened.comparer, Recording):
                yield self.filled(opened, experiment.fit.rows, opened.comparer)
        elif experiment.fit.rows.groups > 1:
            yield self.shared(opened)

    def shared(self, opened: Opened) -> Outcome:
        """How many places of a row are of use."""
        fit = opened.experiment.fit
        each = fit.rows.groups
        recorded = opened.comparer.pairs if isinstance(opened.comparer, Recording) else None
        _, counts = np.unique((opened.groups if recorded is None else recorded).prompts, return_counts=True)
        most = int(np.max(counts, initial=1))
        rows = int(np.ceil(counts / each).sum())
        used = int(counts.sum()) / max(rows * each, 1)
        measured: Measured = {"groups_a_row": each, "most_of_a_prompt": most, "places_used": used}
        note = ""
        if most < each:
            whose = "prompt" if recorded is not None else f"of the {len(counts)} prompts looked at"
            note = (
                f"no {whose} has more than {most} pairs: with fit.rows.groups {each} a step of "
                f"fit.batch_size {fit.batch_size} has {fit.batch_size * used:.0f} pairs on average and empty places"
            )
        return judged("pairs that share a row", measured, [], note)

    def filled(self, opened: Opened, rows: Packed, recorded: Recording) -> Outcome:
        """How full the rows of the first iteration's steps are, and which groups no row holds."""
        experiment = opened.experiment
        groups = as_trained(experiment.loss, recorded.groups(0))
        try:
            groups, left_out = rows.within(groups)
        except DataError as refusal:
            return judged("rows of many prompts", {"row_tokens": rows.tokens}, [str(refusal)])
        order, steps = steps_of(experiment, opened.machine, 0, groups)
        laid = [steps[index] for index in range(len(order))]
        cells, tokens = (
            sum(len(found) * shape.row for found, shape in laid),
            sum(row_tokens(groups, found) for found, _ in laid),
        )
        measured: Measured = {
            "rows_a_step": steps.rows,
            "row_tokens": steps.shape.row,
            "padding_fraction": 1 - tokens / cells,
            "too_long": left_out or 0,
        }
        note = f"{left_out} groups are longer than a row of {rows.tokens} tokens and left out" if left_out else ""
        return judged("rows of many prompts", measured, [], note)


CHECK = Batches()
