"""Block sizes by platform and TPU generation: data, from compiled schedules, see BENCHMARKS."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def tuning() -> dict[str, Any]:
    """The table `tuning.json`."""
    return json.loads(files(__package__).joinpath("tuning.json").read_text())
