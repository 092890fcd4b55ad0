"""How findings are shown: a table and a decoded row for people, in colour on a terminal, or JSON."""

import dataclasses
import io
import json
import os
from collections.abc import Sequence
from typing import TextIO

from jaxalign.doctor.outcome import Measured, Outcome
from jaxalign.doctor.row import Token

COLOURS = {
    "ok": "32",
    "skipped": "2",
    "warning": "33",
    "finding": "1;31",
    "template": "2",
    "system": "35",
    "user": "36",
    "prompt": "36",
    "assistant": "32",
    "end of turn": "1;33",
}
"""ANSI codes by status and by role."""


def coloured(out: TextIO | io.TextIOBase) -> bool:
    """Whether `out` is a terminal whose user has not asked for plain text (no-color.org)."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def paint(text: str, what: str, colour: bool) -> str:
    """The text in the terminal colour of `what`, a status or a part of a row; plain where colours are off."""
    return f"\033[{COLOURS[what]}m{text}\033[0m" if colour and what in COLOURS else text


def row_lines(row: Sequence[Token], colour: bool) -> list[str]:
    """One line a token: branch, position, id, role, log-prob in nats (- where it is not scored), text."""
    lines = [f"{'branch':<9}{'position':>8}{'id':>8}  {'role':<12}{'log-prob':>9}  text"]
    for token in row:
        logp = "-" if token.logp is None else f"{token.logp:.3f}"
        line = f"{token.part:<9}{token.position:>8}{token.id:>8}  {token.role:<12}{logp:>9}  {token.text}"
        lines.append(paint(line, token.role, colour))
    return lines


def table_lines(outcomes: Sequence[Outcome], colour: bool) -> list[str]:
    """One line a check, and below it what to do where something is to be done."""
    lines = []
    for outcome in outcomes:
        status = outcome.status.upper() if outcome.status == "finding" else outcome.status
        shown = paint(f"{status:<8}", outcome.status, colour)
        lines.append(f"{shown} {outcome.check:<40} {numbers(outcome.measured)}".rstrip())
        if outcome.fix:
            lines.append(f"{'':<9}{'' if outcome.status == 'skipped' else '→ '}{outcome.fix}")
    return lines


def numbers(measured: Measured) -> str:
    """Measured values on one line: floats to four digits, lists by commas."""

    def shown(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.4g}"
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    return "   ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in measured.items())


def as_json(outcomes: Sequence[Outcome]) -> str:
    """A list of objects {check, status, measured, fix}. Numbers that JSON has no sign for are text."""
    return json.dumps([plain(dataclasses.asdict(outcome)) for outcome in outcomes], indent=2, allow_nan=False)


def plain(value: object) -> object:
    """The value as JSON has it: floats that are not finite as text."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, float) and value - value != 0:
        return str(value)
    return value
