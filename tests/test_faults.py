"""The list of faults and the table of reliability name tests that there are."""

import ast
import pathlib
import re

HERE = pathlib.Path(__file__).parent
LIST = (HERE.parent / "docs" / "faults.md").read_text(encoding="utf-8")
MEASURED = (HERE.parent / "BENCHMARKS.md").read_text(encoding="utf-8")
TABLE = MEASURED[MEASURED.index("\n## Reliability\n") :].split("\n## ")[1]


def test_every_test_that_the_list_names_is_there():
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", LIST + TABLE))
    assert len(named) > 80
    found = {
        (file, node.name)
        for file in {file for file, _ in named}
        for node in ast.walk(ast.parse((HERE / file).read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }
    assert named - found == set()


def test_every_row_of_the_list_names_one():
    rows = [line for line in LIST.splitlines() if re.match(r"\| [A-Z]-?\d", line)]
    assert len(rows) > 70
    assert [row for row in rows if "::" not in row.rsplit("|", 2)[1]] == []


def test_every_goal_of_reliability_has_a_figure_and_where_it_is_from():
    rows = dict(re.findall(r"^\| (R\d+) (\|.*\|)$", TABLE, re.M))
    assert [*rows] == [f"R{number}" for number in range(1, 22)]
    for row in rows.values():
        _, goal, figure, where, _ = (cell.strip() for cell in row.split("|"))
        assert goal
        assert figure
        names = re.findall(r"`([\w/]+\.(?:py|md))", where)
        assert all((HERE / name).exists() or (HERE.parent / name).exists() for name in names)
        assert names or "`" in where
