"""Training checkpoints in two tiers: those of the run directory, and closer ones that each host keeps for itself.

What the run directory holds outlives every machine, and costs the way of the whole state to it. Between two of those,
each host keeps the shards of its own devices in its memory (/dev/shm) or on a disk of its own. When the run is launched
again each host reads its own; one that was replaced gets its shards over the network of the devices, from those of
another slice or another copy of the parameters. Every array is verified against its checksum before it is used, here or
there. A step that some shard is lost of is passed over, in the end for the checkpoints of the run directory.

Orbax has the idea too (`orbax.checkpoint.experimental.emergency`, for runs of several slices): there one manager owns
both tiers, whose arrays carry no checksums of their own. Here the run directory stays what it is.
"""

import json
import sys
from types import TracebackType
from typing import Any

import jax

from jaxalign.errors import CheckpointError
from jaxalign.hosts.group import ALONE
from jaxalign.storage.checkpoint import FitCheckpoints, Restored
from jaxalign.storage.local import LocalCheckpoints, LocalTier, OwnShards
from jaxalign.storage.shards import abstract_shards, assembled, own, whole


class TieredCheckpoints:
    """The training checkpoints of one fit: `lasting` ones, and between them those of `tier`, where there is one.

    A local save that fails costs the local tier until the next launch, and never the run.
    """

    def __init__(self, lasting: FitCheckpoints, tier: LocalTier | None):
        self._lasting = lasting
        self._tier = tier
        self._local: LocalCheckpoints | None = tier.of(lasting.name()) if tier is not None else None
        self._hosts = tier.hosts if tier is not None else ALONE
        self._saves = True  # locally; what is there counts even where no more can be saved

    def __enter__(self) -> "TieredCheckpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_local()
        self._lasting.__exit__(kind, error, trace)

    def due(self, step: int) -> bool:
        """Whether a checkpoint of either tier is wanted after `step` steps."""
        return self._lasting.due(step) or (self._tier is not None and step % self._tier.every == 0)

    def steps(self) -> list[int]:
        """The steps that a launch may go on from, on any host, oldest first."""
        local = self._local.steps() if self._local is not None else []
        return sorted({*self._lasting.steps(), *(step for each in self._hosts.each(local) for step in each)})

    def save(self, step: int, state: Any, data: dict[str, Any], meta: dict[str, Any], stopping: bool = False) -> None:
        """As `FitCheckpoints.save`: in the run directory when it is due there, or last before a stop."""
        if stopping or self._lasting.due(step):
            self._lasting.save(step, state, data, meta)
        elif self._local is not None and self._saves:
            try:
                self._local.save(step, own(state), data, meta)
            except CheckpointError as error:
                self._give_up(error)

    def restore(self, abstract_state: Any) -> Restored | None:
        """The newest good state of both tiers on the devices of `abstract_state`; see `FitCheckpoints.restore`."""
        newest = max(self._lasting.steps(), default=0)
        found = self._nearest(abstract_state, newest) if self._tier is not None else None
        return found or self._lasting.restore(abstract_state)

    def close(self) -> None:
        """Waits for the saves that are under way; CheckpointError when the lasting one failed."""
        self._close_local()
        self._lasting.close()

    def _close_local(self) -> None:
        if self._local is not None:
            try:
                self._local.close()
            except CheckpointError as error:
                self._give_up(error)

    def _give_up(self, error: CheckpointError) -> None:
        self._saves = False
        print(
            f"{error}. No local checkpoints of this host until the next launch; those in the run directory go on",
            file=sys.stderr,
            flush=True,
        )

    def _nearest(self, abstract: Any, after: int) -> Restored | None:
        """The newest state after more than `after` steps that is whole in the local tiers of all hosts together."""
        mine = [step for step in self._local.steps() if step > after] if self._local is not None else []
        for step in sorted({step for each in self._hosts.each(mine) for step in each}, reverse=True):
            found, shards = self._loaded(step, abstract) if step in mine else (None, {})
            there = self._hosts.each([found.data, found.meta] if found is not None else None)
            holders = {index for index, documents in enumerate(there) if documents is not None}
            if not whole(abstract, holders):
                continue
            state = assembled(abstract, shards, holders)
            data, meta = next(map(json.loads, documents) for documents in there if documents is not None)
            if self._hosts.leader:
                self._tell(step, [index for index in range(self._hosts.count) if index not in holders])
            return Restored(step, state, data, meta)
        return None

    def _loaded(self, step: int, abstract: Any) -> tuple[OwnShards | None, dict[str, jax.Array]]:
        """This host's shards after `step` steps; none where they are damaged or those of another placement."""
        assert self._local is not None
        try:
            return self._local.load(step, abstract_shards(abstract))
        except CheckpointError as error:
            print(f"{error}; passed over", file=sys.stderr, flush=True)
            self._local.drop(step)
            return None, {}

    def _tell(self, step: int, without: list[int]) -> None:
        given = f"; processes {without} had none and got their shards from others" if without else ""
        print(f"the fit goes on from the hosts' own checkpoints after step {step}{given}", file=sys.stderr, flush=True)
