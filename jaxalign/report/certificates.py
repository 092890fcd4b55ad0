"""The certificates of a run's iterations in words: is the inner game solved, and where does the schedule lead?

What the numbers are: `games.inner_gap` and `games.stability`. They are of the answers that were sampled.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxalign.anchors.adaptive import NEXT
from jaxalign.games.stability import TOLD, times

GAP = "align/inner_gap_corrected"
AWAY = "align/expanding"

NONE = (
    "There are none: they are made of mirror steps (INPO and its like) on pairs of the policy's own answers, without "
    "look-aheads or blended anchors."
)


YET = "There are none yet: no step of a fit is recorded."


def certified(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Lines of metrics.jsonl that are certificates."""
    there = [line for line in metrics if line["phase"] == "certificates" and line["iteration"] != "initial"]
    return [line for line in there if any("/" in name for name in line)]


def verdict(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on the whole run."""
    lines = certified(metrics)
    if not lines:
        return [NONE if any(line["phase"] == "fit" for line in metrics) else YET]
    found = []
    judged = [line for line in lines if AWAY in line]
    if judged:
        away = [str(line["iteration"] + 1) for line in judged if line[AWAY] > TOLD]
        where = f" ({', '.join(away[:20])}{' …' if len(away) > 20 else ''})" if away else ""
        share = f"{len(away) or 'none'} of {len(judged)} iterations{where}"
        found.append(
            f"On more than {TOLD:.0%} of the prompts the schedule leads away from what it should come to in {share}."
        )
    if gaps := [line[GAP] for line in lines if GAP in line]:
        found.append(
            f"What the best deviation would still gain in the regularised game went from {gaps[0]:.3g} in the first "
            f"iteration to {gaps[-1]:.3g} in the last, in win probability."
        )
    closing = [str(line["iteration"] + 1) for line in lines if line.get(NEXT) == line["iteration"] + 1]
    if any(NEXT in line for line in lines):
        listed = f" (fits of iterations {', '.join(closing[:20])})" if closing else ""
        found.append(f"Rounds that were closed because their inner problem was solved: {len(closing)}{listed}.")
    return found


def told(line: Mapping[str, Any]) -> list[str]:
    """Sentences on one iteration, of its line among `certified`."""
    return [sentence for make in (_distance, _gap, _rounds, _others, _step) if (sentence := make(line))]


def _distance(line: Mapping[str, Any]) -> str:
    nats = line.get("align/anchor_kl_nats")
    if nats is None:
        return ""
    return f"The policy is {nats:.3g} nats from its anchor." if nats else "The policy is its anchor."


def _gap(line: Mapping[str, Any]) -> str:
    gap, error = line.get(GAP), line.get("align/inner_gap_stderr")
    if gap is None:
        return ""
    within = "" if error is None else f" ± {error:.2g}"
    solved = error is not None and gap <= error
    says = ": no more than one standard error, as if the inner game were solved" if solved else ""
    return f"The best deviation would gain {gap:.3g}{within} in the game around the anchor{says}."


def _rounds(line: Mapping[str, Any]) -> str:
    rotating, factor = line.get("align/rotating"), line.get("align/contraction")
    if rotating is None:
        return ""
    if not rotating:
        return "On no prompt have the sampled answers a mixed equilibrium."
    mixed = f"On {rotating:.1%} of the prompts the sampled answers have a mixed equilibrium"
    if factor is None:
        return f"{mixed}."
    return f"{mixed}; near it a round multiplies the distance by {times(factor)} on average{_away(line)}."


def _others(line: Mapping[str, Any]) -> str:
    left = [
        f"{line[name]:.1%} of the {what}"
        for name, what in (("align/round_kl", "KL from the Nash policy"), ("align/round_gap", "duality gap"))
        if name in line
    ]
    where = "On all others an" if line.get("align/rotating") else "An"
    return f"{where} exact round leaves {' and '.join(left)}." if left else ""


def _step(line: Mapping[str, Any]) -> str:
    modulus = line.get("align/modulus")
    if modulus is None:
        return ""
    return (
        f"Near the solution of the inner problem an exact step multiplies the distance by {times(modulus)} on average"
        f"{_away(line)}."
    )


def _away(line: Mapping[str, Any]) -> str:
    """A mean below 1 says nothing of the prompts whose own factor is above."""
    share = line.get(AWAY)
    return "" if share is None else f", and leads away from it on {share:.1%} of all prompts"
