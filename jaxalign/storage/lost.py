"""What a run has lost since it was there, and what the command that goes on with it makes again for that."""

import sys
from itertools import groupby

from jaxalign.storage.record import read_metrics
from jaxalign.storage.rundir import Iteration, RunDir


def tell(run: RunDir, first: int) -> None:
    """Says so on standard error, before anything is computed. `first`: iterations that are complete, up to the first
    that has lost something (`RunDir.finished`)."""
    if run.hosts.leader:
        for sentence in filter(None, (remade(run, first), unlogged(run, first))):
            print(f"jaxalign: {sentence}", file=sys.stderr, flush=True)


def unlogged(run: RunDir, first: int) -> str:
    """Which complete iterations metrics.jsonl says nothing of any more; empty where it says something of all."""
    logged = {line["iteration"] for line in read_metrics(run.path)}
    gone = [number for number in range(first) if number not in logged]
    if not gone:
        return ""
    return (
        f"{run.path / 'metrics.jsonl'}: says nothing of the iterations {spans(gone)}, which are complete: it was "
        "deleted or cut. The run goes on; what was logged there comes back only if you put the file back, "
        "and delete its copy beside it, while no launch runs"
    )


def remade(run: RunDir, first: int) -> str:
    """What is gone, that it is made again, and which policies are trained again for it; empty where nothing is gone."""
    places: tuple[Iteration, ...] = ("initial", first)
    where = next((place for place in places if run.missing(place)), None)
    if where is None:
        return ""
    home = where if isinstance(where, str) else f"{where:04d}"
    names = ", ".join(f"{home}/{name}" for name in run.missing(where))
    said = f"{run.path}: {names} was there when its iteration was complete, and is gone: it is made again"
    there, kept = run.policies(), run.config.get("keep_policies")
    # the loop goes on from the newest policy that lies before what is gone, and trains all behind it that are not there
    start = max((number for number in there if number <= first), default=0)
    gone = [number for number in range(start + 1, max(there, default=0)) if number not in there]
    if not gone:
        return said
    why = "that are gone too" if kept is None else f"that keep_policies {kept} has deleted"
    fits = "a fit" if len(gone) == 1 else f"{len(gone)} fits"
    return f"{said}, and so are the policies {spans(gone)} {why}: {fits}. What is put back is not made again"


def spans(numbers: list[int]) -> str:
    """Ascending numbers, those that follow one another as one: "1-3, 5"."""
    runs = [[number for _, number in same] for _, same in groupby(enumerate(numbers), lambda at: at[1] - at[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
