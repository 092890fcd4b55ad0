"""The list of faults names tests that there are."""

import ast
import pathlib
import re

HERE = pathlib.Path(__file__).parent
LIST = (HERE.parent / "docs" / "faults.md").read_text(encoding="utf-8")


def test_every_test_that_the_list_names_is_there():
    named = set(re.findall(r"`([\w/]+\.py)::(\w+)`", LIST))
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
