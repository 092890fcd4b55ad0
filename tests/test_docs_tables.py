"""Tables of games in README and docs: what the learners come to, to the last digit that is printed."""

import re
from collections.abc import Sequence
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_pages import ROOT

from jaxalign.games.compare import configured, every_learner
from jaxalign.games.families import three_action
from jaxalign.games.game import MatrixGame
from jaxalign.games.learner import run
from jaxalign.games.learners.comal import Comal
from jaxalign.games.learners.inpo import INPO
from jaxalign.games.learners.mwu import MWU
from jaxalign.games.metrics import duality_gap

NOTHING = 1e-11
"""Below it the table of docs/theory.md says 0."""
# configs/games/three_action.py: step size 1.5, tau 0.1, a swap after twelve iterations.
OF_THE_LOOP = {
    "three_action.py": Comal(1.5, 0.1, 12),
    "three_action_inpo.py": INPO(1.5, 0.1),
    "three_action_iter_ipo.py": MWU(1.5),
}


def rows(page: str, heading: str) -> list[list[str]]:
    """Cells of the table whose first row begins with `heading`, that row first, without the line below it."""
    lines = (ROOT / page).read_text().partition(f"| {heading} |")
    table = (lines[1] + lines[2]).partition("\n\n")[0].splitlines()
    return [[cell.strip().strip("*") for cell in line.strip("|").split("|")] for n, line in enumerate(table) if n != 1]


def gaps(learner: object, steps: Sequence[int]) -> np.ndarray:
    """Duality gaps of the learner on the three-action game after `steps`, in fp64."""
    with jax.enable_x64(True):
        game, begin = MatrixGame(jnp.asarray(three_action())), jnp.log(jnp.asarray([0.2, 0.5, 0.3]))
        found = run(learner, game, begin, jnp.asarray(steps), steps[-1]).logp
        return np.asarray(jax.vmap(lambda logp: duality_gap(game, logp))(found))


def last_digit(text: str) -> float:
    """Half a unit of the last digit that a number is printed with, and a little for decimals that end in 5."""
    digits, _, exponent = text.partition("e")
    return 0.51 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))


@cache
def of_the_page() -> dict[str, list[str]]:
    _, *table = rows("docs/theory.md", "learner")
    return {cells[0].strip("`"): cells[1:] for cells in table}


def test_the_table_of_the_theory_has_its_learners():
    heading, *_ = rows("docs/theory.md", "learner")
    assert heading[1:] == ["step 10", "step 100", "step 1000", "step 5000"]
    assert len(of_the_page()) == 7


@pytest.mark.parametrize("name", of_the_page())
def test_gaps_of_the_theory_are_those_of_the_learners(name):
    learner = configured(every_learner()[name], eta=0.3, tau=0.1, inner=100)
    for text, found in zip(of_the_page()[name], gaps(learner, (10, 100, 1000, 5000)), strict=True):
        assert abs(found - float(text)) <= (NOTHING if text == "0" else last_digit(text)), (text, found)


def test_gaps_of_the_readme_are_those_of_the_learners_that_the_configs_follow():
    """In fp64; `games/test_games_configs.py` has how near the loop comes."""
    heading, *table = rows("README.md", "duality gap after iteration")
    steps = [int(text) for text in heading[2:]]
    assert steps == [12, 24, 36, 72, 120]
    assert len(table) == 3
    for name, *cells in table:
        (config,) = re.findall(r"games/(\w+\.py)", name)
        for text, found in zip(cells[1:], gaps(OF_THE_LOOP[config], steps), strict=True):
            assert not text or abs(found - float(text)) <= last_digit(text), (config, text, found)
