"""Whether a microbatch can be split over the mesh: what a run refuses before its first iteration."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxalign.doctor.opened import Opened
from jaxalign.doctor.outcome import Outcome, judged
from jaxalign.mesh.sharding import row_shards


@dataclass(frozen=True)
class Batches:
    """Groups a microbatch must be a multiple of the shards that rows are split over."""

    def __call__(self, opened: Opened) -> Iterable[Outcome]:
        fit, shards = opened.experiment.fit, row_shards(opened.mesh)
        size = fit.batch_size // fit.accumulate
        fix = f"make fit.batch_size / fit.accumulate a multiple of the {shards} shards of rows (mesh.data · mesh.fsdp)"
        yield judged(
            "batches over the mesh",
            {"devices": opened.mesh.size, "row_shards": shards, "groups_a_microbatch": size},
            [fix] if size % shards else [],
        )


CHECK = Batches()
