"""What is refused of buckets before anything is computed, by a machine that cannot reach one."""

import importlib.util
import re

import pytest
from made_runs import CONFIGS

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError
from jaxalign.storage import bucket, rundir

ROOT = CONFIGS.parent
GAME = str(CONFIGS / "games" / "three_action.py")


@pytest.mark.parametrize(
    ("place", "named"),
    [
        ("s3://bucket/run", "not here"),
        ("az://bucket/run", "not here"),
        ("gs://bucket", "names no directory"),
        ("gs://bucket/", "names no directory"),
        ("gs:///run", "names no directory"),
        ("gs://bucket/run#1", "none of"),
        ("gs://bucket/r[u]n", "none of"),
    ],
)
def test_places_that_no_run_can_lie_in_are_refused(monkeypatch, place, named):
    monkeypatch.setattr(bucket, "reach", lambda path: None)
    for opened in (lambda: rundir.open_run(place, {}), lambda: rundir.read_run(place)):
        with pytest.raises(ConfigError, match=named):
            opened()


@pytest.mark.parametrize("verb", [("train", GAME, "--workdir"), ("sample",), ("eval",), ("export",)])
def test_a_bucket_without_its_package_is_one_line_with_the_remedy(monkeypatch, capsys, verb, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gcsfs" else found(name, *more)
    )
    after = [str(tmp_path / "out")] if verb == ("export",) else []
    assert main([*verb, "gs://bucket/run", *after]) == 2
    assert "pip install 'etils[epath-gcs]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", "gs://b/run"),
        ("report", "run", "--out", "gs://b/out"),
        ("evidence", "gs://b/runs"),
        ("sweep", GAME, "--workdir", "gs://b/r"),
    ],
)
def test_verbs_that_work_on_files_say_so(capsys, arguments):
    assert main(list(arguments)) == 2
    assert "lies in a bucket; copy it here first" in capsys.readouterr().err


def test_the_page_on_buckets_names_tests_that_there_are():
    page = (ROOT / "docs" / "buckets.md").read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", page)
    assert len(named) >= 6
    for file, test in named:
        text = (ROOT / "tests" / "buckets" / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in text, test
