"""The commands of README and docs, run page by page by a shell in an empty folder: exit codes, and what they print.

What a page writes (`<!-- file: PATH -->`) is written where it stands; blocks that say why they are not run are left
out, and `../test_docs.py` counts them. Packages are those that are here: without the TPU compiler `plan` is left out.
"""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_pages import PAGES, ROOT, Command, blocks

pytestmark = [pytest.mark.docs, pytest.mark.timeout(3600)]

RUN = [page for page in PAGES if any(block.commands and not block.not_run for block in blocks(page))]
TPU_COMPILER = importlib.util.find_spec("libtpu")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One with `jaxalign` and `python` of this checkout on its path, and a home of its own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in (("jaxalign", "-m jaxalign "), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words}"$@"\n')
        (folder / name).chmod(0o755)
    paths = [str(ROOT)]
    if TPU_COMPILER is not None and TPU_COMPILER.origin is not None:
        paths.append(str(Path(TPU_COMPILER.origin).resolve().parents[1]))
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(paths),
        "HOME": str(tmp_path / "home"),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # one device; unoptimised code halves the time of a compile
    }


def shows(line: str, said: str) -> bool:
    """Whether a line of `said` is the line, in which `…` stands for anything."""
    pattern = ".*".join(map(re.escape, line.split("…")))
    return re.search(f"^{pattern}$", said, re.MULTILINE) is not None


def run(command: Command, folder: Path, environment: dict[str, str]) -> str:
    """What is wrong with how it ends, or ""."""
    # what a pipe's first command came to counts
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    if done.returncode != command.code:
        return f"exit code {done.returncode}, not {command.code}:\n{done.stdout[-2000:]}"
    missing = [line for line in command.shown if line and not shows(line, done.stdout)]
    return f"prints no {missing[0]!r}:\n{done.stdout[-2000:]}" if missing else ""


@pytest.mark.parametrize("page", RUN)
def test_every_command_of_a_page_does_what_it_says(page, tmp_path, environment):
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "configs").symlink_to(ROOT / "configs")
    for block in blocks(page):
        if block.file:
            block.write(folder)
        for command in () if block.not_run else block.commands:
            if "jaxalign plan" in command.text and TPU_COMPILER is None:
                continue
            wrong = run(command, folder, environment)
            assert not wrong, f"{page}:{command.line}: {command.text}: {wrong}"


def test_lines_that_are_shown_are_looked_for():
    assert shows("a … c", "x\na b c\ny")
    assert not shows("a c", "a b c")
    assert shows("(16,) True", "(16,) True")
