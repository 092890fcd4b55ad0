"""What a row says under a name, which may lead inside: "meta.score", "completions[0].text"."""

import math
import re
from typing import Any

from jaxalign.data import jsonl
from jaxalign.data.jsonl import RowError
from jaxalign.data.tables.table import Cell, Values

_NUMBER = re.compile(r"[+-]?([0-9]+|(?P<inexact>([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?))")
MESSAGES = re.compile(r"\s*\[\s*\{\s*[\"'](role|content)[\"']\s*:")
"""How a cell begins that holds a conversation, as JSON or as Python writes lists. Other arrays are texts, as answers in
JSON are."""
TOOLS = re.compile(r"\s*\[")
"""How a cell begins that holds tools."""
DIGITS = 300
"""Of an integer that is read as one; what has more of them is beyond all numbers that are asked for."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


def value(row: Values, field: str) -> Any:
    """What stands there; None where nothing does or null. A key that is `field` as it is comes first."""
    if field in row:
        return row[field]
    found: Any = row
    for name, index in _STEP.findall(field):
        if index:
            found = found[int(index)] if isinstance(found, list) and int(index) < len(found) else None
        else:
            found = found.get(name) if isinstance(found, dict) else None
    return found


def optional(row: Values, field: str) -> Any:
    """As `value`; None too where no field is named."""
    return value(row, field) if field else None


def needed(row: Values, field: str) -> Any:
    """As `value`; RowError where nothing stands there."""
    found = value(row, field)
    if found is None:
        raise RowError(field, "missing or null")
    return found


def plain(found: Any) -> Any:
    """The same; of a cell the boolean or the number that it writes, and its text where it writes none."""
    if not isinstance(found, Cell):
        return found
    if found.lower() in ("true", "false"):
        return found.lower() == "true"
    if not (written := _NUMBER.fullmatch(found.strip())):
        return str(found)
    return float(found) if written["inexact"] or len(found) > DIGITS else int(found)


def listed(found: Any, field: str, begin: re.Pattern[str] = MESSAGES) -> Any:
    """The same; of a cell that begins so the JSON array that it holds. RowError where that is no JSON."""
    if not isinstance(found, Cell) or not begin.match(found):
        return found
    try:
        return jsonl.parse_object(b'{"": %s}' % found.encode())[""]
    except RowError as error:
        raise RowError(field, f"begins as an array and is no JSON:{error}") from None


def number(found: Any, field: str, low: float = -math.inf, high: float = math.inf) -> float:
    """`found`, if it is a finite number from `low` to `high`; RowError otherwise."""
    found = plain(found)
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise RowError(field, f"{jsonl.kind(found)} where a number belongs")
    try:
        finite = math.isfinite(found)
    except OverflowError:  # a whole number beyond all floats
        finite = False
    if not finite:
        raise RowError(field, f"{str(found)[:40]} is not a finite number")
    if not low <= found <= high:
        raise RowError(field, f"{found} is not " + (f"between {low:g} and {high:g}" if high < math.inf else "≥ 0"))
    return float(found)
