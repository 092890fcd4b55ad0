"""Values that the settings of `made_experiment` can have, drawn at random."""

from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from made_experiment import Mode

few = settings(max_examples=25, deadline=None)
text = st.text(alphabet=st.characters(exclude_categories=())) | st.sampled_from(
    ["none", "'none'", "true", "1", "1,2", ""]
)
number = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "loss.eta": number,
    "loss.label": st.none() | text,
    "optim.betas": st.tuples(number, number),
    "optim.clip": st.floats(allow_nan=False),
    "evals.2.resamples": st.integers(),
    "named.short.resamples": st.integers(),
    "steps": st.integers(),
    "on": st.booleans(),
    "name": text,
    "maybe": st.none() | st.integers(),
    "either": number | text,
    "mode": st.sampled_from(Mode),
    "remat": st.sampled_from(["none", "full", 2]),
    "folder": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])).map(Path),
    "sizes": st.lists(st.integers()).map(tuple),
    "words": st.lists(text).map(tuple),
    "limits": st.dictionaries(text, number),
    "grid": st.lists(st.tuples(st.integers(), number)).map(tuple),
    "levels": st.lists(st.floats(allow_nan=False)).map(tuple),
    "modes": st.lists(st.sampled_from(Mode)).map(tuple),
    "paths": st.lists(text.filter(lambda x: "\0" not in x).map(Path)).map(tuple),
    "items": st.lists(st.integers()),
    "free": st.dictionaries(text, st.integers() | text | st.none()),
}
