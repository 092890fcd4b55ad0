"""The day that a judge's template is told, where it asks for one."""

import datetime
from collections.abc import Iterable

from jaxalign.models.model import Model


def day_problems(date: str) -> Iterable[str]:
    """What is wrong with a judge's date; an empty one is that of the run's first launch."""
    try:
        datetime.date.fromisoformat(date or "2026-11-28")
    except ValueError:
        yield f"date {date!r} is no day such as 2026-11-28"


def on_day(model: Model, date: str) -> Model:
    """The model whose template is told that date, if there is one."""
    return model.dated(datetime.date.fromisoformat(date)) if date else model
