"""Files of strangers with changes anywhere: each reader reads them, or refuses them by a JaxalignError.

The same readers that the coverage-guided fuzzer drives (`make fuzz`), here with a few changes that nobody guides.
"""

import pathlib
import random
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent / "fuzz"))

from readers import READERS, mutated


@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_refused(name: str, tmp_path: pathlib.Path) -> None:
    reader = READERS[name]
    home = tmp_path / "home"
    seeds = list(reader.seeds(home))
    assert reader.tried(home, seeds[0]), "a file that nobody changed is read"
    outcomes = set()
    for number in range(40):
        dice = random.Random(f"{name} {number}")
        outcomes.add(reader.tried(home, mutated(reader, dice.choice(seeds), dice)))
    assert False in outcomes, "some of the changes are refused"
