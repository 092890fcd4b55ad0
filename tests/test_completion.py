"""`jaxalign completion`: the shell offers what the parsers take."""

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from jaxalign.__main__ import main
from jaxalign.commands import verbs
from jaxalign.commands.completion import everything

ASK = """
source "$0"
while read -r line; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  _shtab_jaxalign jaxalign "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    return everything()


@pytest.fixture(scope="module")
def script(tmp_path_factory, parser) -> Path:
    file = tmp_path_factory.mktemp("completion") / "jaxalign"
    with pytest.MonkeyPatch.context() as patched, file.open("w") as out:
        patched.setattr("sys.stdout", out)
        patched.setattr("jaxalign.commands.completion.everything", lambda: parser)
        assert main(["completion", "bash"]) == 0
    return file


def offered(script: Path, *lines: str) -> list[list[str]]:
    """What bash offers behind each line, in an empty folder with one file and one folder."""
    (script.parent / "here").mkdir(exist_ok=True)
    (script.parent / "here" / "mine.py").touch()
    (script.parent / "here" / "runs").mkdir(exist_ok=True)
    answered = subprocess.run(
        ["bash", "-c", ASK, str(script)],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        cwd=script.parent / "here",
    )
    assert answered.stderr == ""
    return [line.split() for line in answered.stdout.split("\n")[:-1]]


def by_verb(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def test_bash_offers_the_verbs(script):
    assert [set(each) for each in offered(script, "jaxalign ", "jaxalign do")] == [set(verbs()), {"doctor"}]


def test_bash_offers_the_options_of_each_verb(script, parser):
    asked = by_verb(parser)
    assert set(asked) == set(verbs())
    told = offered(script, *(f"jaxalign {verb} -" for verb in asked))
    for (verb, one), words in zip(asked.items(), told, strict=True):
        assert set(words) == {word for action in one._actions for word in action.option_strings}, verb


def test_bash_offers_choices_starters_files_and_folders(script):
    told = offered(
        script,
        "jaxalign completion ",
        "jaxalign train --distributed ",
        "jaxalign init tiny",
        "jaxalign bench ",
        "jaxalign train ",
        "jaxalign train mine.py --workdir ",
    )
    assert told[:3] == [["bash", "zsh"], ["auto", "off"], ["tiny_lm"]]
    assert {"logp", "rollout", "train"} <= set(told[3])
    assert set(told[4]) >= {"mine.py", "runs"}
    assert [word.rstrip("/") for word in told[5]] == ["runs"]


def test_zsh_is_told_the_same(capsys, monkeypatch, parser, tmp_path):
    monkeypatch.setattr("jaxalign.commands.completion.everything", lambda: parser)
    assert main(["completion", "zsh"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("#compdef jaxalign\n")
    for verb, one in by_verb(parser).items():
        assert f"{verb}:" in told
        assert all(word in told for action in one._actions for word in action.option_strings), verb
    if shutil.which("zsh"):
        (tmp_path / "_jaxalign").write_text(told)
        subprocess.run(["zsh", "-n", str(tmp_path / "_jaxalign")], check=True)


@pytest.mark.parametrize("arguments", [(), ("fish",)])
def test_another_shell_is_refused(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", *arguments])
    assert "shell" in capsys.readouterr().err
