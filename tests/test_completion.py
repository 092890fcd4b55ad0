"""`jaxalign completion`: the shell offers what the parsers take."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxalign.__main__ import main
from jaxalign.commands import verbs

# Both scripts, and the options of each verb as its parser has them. Apart from here, because the benchmarks, which know
# their own options, would be imported with every annotation checked.
TELL = """
import argparse, contextlib, io, json, sys
from jaxalign.__main__ import main
from jaxalign.commands import completion

parser = completion.everything()
completion.everything = lambda: parser
(verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
told = {"options": {
    verb: [word for action in one._actions for word in action.option_strings] for verb, one in verbs.choices.items()
}}
for shell in ("bash", "zsh"):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["completion", shell]) == 0
    told[shell] = out.getvalue()
json.dump(told, sys.stdout)
"""

# A line behind which a tab is pressed → what is offered there.
ASK = """
source "$0"
while IFS= read -r line; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
  _shtab_jaxalign jaxalign "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", TELL], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def script(tmp_path_factory, told) -> Path:
    file = tmp_path_factory.mktemp("completion") / "jaxalign"
    file.write_text(told["bash"])
    return file


def offered(script: Path, *lines: str) -> list[list[str]]:
    """What bash offers behind each line, in a folder with one file and one folder."""
    here = script.parent / "here"
    (here / "runs").mkdir(parents=True, exist_ok=True)
    (here / "mine.py").touch()
    answered = subprocess.run(
        ["bash", "-c", ASK, str(script)],
        input="".join(f"{line}\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        cwd=here,
    )
    assert answered.stderr == ""
    return [line.split() for line in answered.stdout.split("\n")[:-1]]


def test_bash_offers_the_verbs(script):
    assert [set(each) for each in offered(script, "jaxalign ", "jaxalign do")] == [set(verbs()), {"doctor"}]


def test_bash_offers_the_options_of_each_verb(script, told):
    assert set(told["options"]) == set(verbs())
    for (verb, options), words in zip(
        told["options"].items(), offered(script, *(f"jaxalign {verb} -" for verb in told["options"])), strict=True
    ):
        assert set(words) == set(options), verb


def test_bash_offers_choices_starters_files_and_folders(script):
    *choices, benchmarks, files, folders = offered(
        script,
        "jaxalign completion ",
        "jaxalign train --distributed ",
        "jaxalign init tiny",
        "jaxalign bench ",
        "jaxalign train ",
        "jaxalign train mine.py --workdir ",
    )
    assert choices == [["bash", "zsh"], ["auto", "off"], ["tiny_lm"]]
    assert {"logp", "rollout", "train"} <= set(benchmarks)
    assert set(files) == {"mine.py", "runs"}
    assert folders == ["runs"]


def test_zsh_is_told_the_same(told, tmp_path):
    assert told["zsh"].startswith("#compdef jaxalign\n")
    for verb, options in told["options"].items():
        assert f"{verb}:" in told["zsh"]
        assert all(word in told["zsh"] for word in options), verb
    if shutil.which("zsh"):
        (tmp_path / "_jaxalign").write_text(told["zsh"])
        subprocess.run(["zsh", "-n", str(tmp_path / "_jaxalign")], check=True)


@pytest.mark.parametrize("arguments", [(), ("fish",)])
def test_another_shell_is_refused(capsys, arguments):
    with pytest.raises(SystemExit, match="2"):
        main(["completion", *arguments])
    assert "shell" in capsys.readouterr().err
