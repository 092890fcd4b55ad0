"""A summary of preference data as lines for a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxalign.data.comparisons.summary import Summary


def lines(summary: Summary) -> Iterator[str]:
    """Every part of a summary under a heading; parts that say nothing are left out."""
    unit, rows = summary["unit"], summary["rows"]
    yield from _block("rows", {"read": rows["read"], "skipped": rows["skipped"]})
    yield from (f"    {reason}" for reason in rows["reasons"])
    yield from _block(
        "comparisons",
        {
            "comparisons": summary["comparisons"],
            "of two answers": summary["pairs"],
            "different prompts": summary["prompts"]["distinct"],
            "to one prompt": _quantiles(summary["prompts"]["comparisons_each"]),
        },
    )
    yield from _block(f"lengths, {unit}", {name: _quantiles(each) for name, each in summary["lengths"].items()})
    yield from _block("labels", _labels(summary["labels"]))
    if "margins" in summary:
        yield from _block("margins", {"margin": _quantiles(summary["margins"])})
    if "votes" in summary:
        yield from _block("votes", _votes(summary["votes"]))
    if "bias" in summary:
        names = {"first_wins": "the first in the file wins", "longer_wins": "the longer one wins"}
        yield from _block("bias", {text: _share(summary["bias"][name]) for name, text in names.items()})
    if "signal" in summary:
        text = "a bag of words of other prompts tells the preferred one"
        yield from _block("signal", {text: _share(summary["signal"]["bag_of_words"])})
    yield from _block("said again", {name.replace("_", " "): count for name, count in summary["repeated"].items()})
    if "heldout" in summary:
        names = {
            "comparisons": "held-out comparisons",
            "train_prompts_there": "comparisons whose prompt is there",
            "train_comparisons_there": "comparisons that are there",
        }
        yield from _block("held-out data", {text: summary["heldout"][name] for name, text in names.items()})


def _block(title: str, entries: Mapping[str, Any]) -> Iterator[str]:
    wide = max(map(len, entries), default=0)
    yield title
    yield from (f"  {name:<{wide}}  {value}" for name, value in entries.items())


def _quantiles(found: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {value:.4g}" for name, value in found.items()) or "none"


def _share(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "nothing tells"
    return (
        f"{found['share']:.3f}  (95 % interval {found['ci95_low']:.3f} to {found['ci95_high']:.3f}, of {found['of']})"
    )


def _labels(found: Mapping[str, Any]) -> dict[str, Any]:
    if "desirable" in found:
        return {"desirable": _share(found["desirable"])}
    prefer = "   ".join(f"{name}: {count}" for name, count in found["prefer"].items())
    return {"ties": found["ties"], "certain": found["certain"], "P(chosen)": prefer}


def _votes(found: Mapping[str, Any]) -> dict[str, Any]:
    each = {
        f"annotator {number}": "   ".join(f"{name}: {count}" for name, count in counts.items())
        for number, counts in enumerate(found["each"], 1)
    }
    rates = {
        "two agree": f"{found['two_agree']:.3f}",
        "unanimous": f"{found['unanimous']} of {found['voted_on_by_several']}",
    }
    return each | rates
