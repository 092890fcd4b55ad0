"""What a run came to, as a person reads it at its end: of what its summary.json says, without the run."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.evals import intervals
from jaxalign.evals.context import iterate_name
from jaxalign.evals.win_rate import format_matrix
from jaxalign.types import Metrics

WIDTH = 300
"""Characters of an answer; the rest is in summary.json."""


def told(summary: Mapping[str, Any], path: str | os.PathLike[str], iterations: int, answers: bool) -> str:
    """The summary of the run at `path`, whose last policy is iterate `iterations`: what changed, who wins, what fits
    did, and which commands go on from there. Policies of a run whose models give scores have no `answers`."""
    sections = []
    if "samples" in summary:
        sections.append("What changed (held-out prompts):\n" + "\n".join(map(_sample, summary["samples"])))
    if rates := summary.get("win_rates"):
        matrix = format_matrix(rates["policies"], np.array(rates["row_beats_column"]))
        sections.append(f"Win rates (row against column):\n{matrix}")
    if fits := summary.get("fits"):
        sections.append(_fits(fits))
    if versions := summary.get("versions"):
        sections.append(f"This run: {mixed(versions)}")
    sections.append(f"Last policy ({iterate_name(iterations)}):\n{intervals.told(summary['evals'])}")
    return "\n\n".join([*sections, _closing(summary, path, answers)])


def mixed(versions: Mapping[str, Sequence[str | None]]) -> str:
    """What is told of a run that ended with other versions of packages than it began with."""
    named = ", ".join(f"{name} {first}, then {last}" for name, (first, last) in versions.items())
    return (
        f"its launches had different versions ({named}): what these draw, score or measure differently may be mixed in "
        "it, and iterates of one not compare with those of the other (see CHANGELOG.md)"
    )


def _closing(summary: Mapping[str, Any], path: str | os.PathLike[str], answers: bool) -> str:
    lines = [f"Everything lies in {path}"]
    if "win_rates" in summary:
        lines.append(f"  jaxalign eval {path}          win rates again, on other prompts if you like")
    if "heldout_loss" in summary:
        lines.append(f"  jaxalign eval {path} --pairs FILE    what its policies make of other pairs")
    if answers:
        lines.append(f"  jaxalign sample {path}        talk to any iterate")
    lines.append(f"  jaxalign export {path} DIR    the last policy as a Hugging Face directory")
    return "\n".join(lines)


def _fits(fits: Metrics) -> str:
    lowered, checked = (int(fits[f"fits/{name}"]) for name in ("lowered", "checked"))
    # summaries of earlier versions have not counted these
    clearly = fits.get("fits/lowered_beyond_error")
    beyond = "" if clearly is None else f", {int(clearly)} of them by more than the standard error"
    return (
        f"{lowered} of {checked} fits lowered their loss on pairs that they had not seen{beyond} "
        f"(mean change {fits['fits/heldout_change_mean']:+.3g})."
    )


def _sample(sample: Mapping[str, str]) -> str:
    return f"> {sample['prompt']}\n  base: {_clip(sample['base'])}\n  last: {_clip(sample['last'])}"


def _clip(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"
