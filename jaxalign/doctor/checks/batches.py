"""Whether a microbatch can be split over the mesh: what a run refuses before its first iteration."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.errors import ConfigError
from jaxalign.mesh.sharding import row_shards
from jaxalign.programs import check_batches, groups_a_microbatch


@dataclass(frozen=True)
class Batches:
    """Groups a microbatch must be a multiple of the shards that rows are split over."""

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


CHECK = Batches()
