"""`jaxalign losses`: what is printed of objectives is what their files say."""

from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.losses.parts.catalogue import entries
from jaxalign.losses.parts.left_out import LEFT_OUT

PAGE = Path(__file__).parents[1] / "docs" / "losses.md"
NAMES = [entry.name for entry in entries()]


def printed(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    assert main(["losses", *args]) == 0
    return capsys.readouterr().out


def test_every_loss_has_a_line(capsys):
    lines = printed(capsys).splitlines()
    assert [line.split()[0] for line in lines[1:]] == NAMES
    (dpo,) = (line for line in lines if line.startswith("DPO "))
    assert "anchor" in dpo
    assert "beta=0.1 smoothing=0.0" in dpo
    assert "2305.18290" in dpo
    assert "loss = −log σ( beta ( [log π/π_anchor](chosen) − [log π/π_anchor](rejected) ) )" in dpo
    (token,) = (line for line in lines if line.startswith("TokenLikelihood "))
    assert "loss = −log π(chosen) / (mean |chosen|)" in token
    assert dpo.endswith("DPO: direct preference optimisation")


@pytest.mark.parametrize("name", ["simpo", "SimPO"])
def test_one_loss_says_all_of_itself(capsys, name):
    said = printed(capsys, name)
    assert "from jaxalign.losses.simpo import SimPO" in said
    assert "loss = −log σ( beta (" in said
    assert "    gamma_ratio = 0.5\n        gamma/beta: by how many nats a token" in said
    assert "reads no reference" in said


@pytest.mark.parametrize(("asked", "found"), [("mmpo", "MarginSoftDPO"), ("ODPO", "OffsetDPO"), ("rpo", "RelativePO")])
def test_the_fields_own_names_are_known(capsys, asked, found):
    assert f"import {found}\n" in printed(capsys, asked)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ("SparsePO", "left out: masks of tokens"),
        ("SparsePO", "left out: masks"),
        ("MPO", "SumOf"),
        ("apo", "APODown, APOZero"),
    ],
)
def test_a_name_of_none_or_of_several_says_where_to_look(capsys, asked, why):
    assert main(["losses", asked]) != 0
    assert why in capsys.readouterr().err


def test_an_unknown_name_is_refused_with_its_neighbours(capsys):
    assert main(["losses", "SimDPO"]) != 0
    assert "nearest:" in capsys.readouterr().err


def test_the_page_is_made_from_the_docstrings(capsys):
    assert printed(capsys, "--markdown") == PAGE.read_text(), "run: jaxalign losses --markdown > docs/losses.md"


def test_the_page_ends_with_what_is_left_out(capsys):
    """Each method once, with a paper that no loss of that name has."""
    said = printed(capsys, "--markdown").split("## Left out\n")[1].strip().splitlines()
    assert len(said) == len({line.split(":")[0] for line in said}) == len(LEFT_OUT)
    assert not {method.split(",")[0] for method, _, _ in LEFT_OUT} & {*NAMES} - {"GPO"}  # two papers have that name


@pytest.mark.parametrize("entry", entries(), ids=NAMES)
def test_docstrings_have_a_formula_a_source_and_every_setting(entry):
    assert "=" in entry.formula
    assert entry.papers or entry.name in {"Likelihood", "TokenLikelihood", "Composed", "Ratings", "Desirable"}
    assert all(doc for _, _, doc in entry.settings())
    assert type(entry.example).__doc__
