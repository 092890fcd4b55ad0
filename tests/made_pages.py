"""README and docs taken apart: their blocks of code, the commands in them, and what these must be to be understood.

A block is ```LANGUAGE, and the line above may say something of it: `<!-- file: PATH -->`, it is that file;
`<!-- part of a config -->`, it is no whole file; `<!-- not run: REASON -->`, its commands cost what a test cannot pay.
In a block of `console` a line that begins with `$ ` is a command, at whose end `# exit code N` may stand; behind a
backslash it goes on in the next line. Others are shown of what it prints, `…` standing for anything.
"""

import argparse
import ast
import contextlib
import importlib
import importlib.util
import io
import json
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
GENERATED = ("docs/losses.md",)
"""Pages that are made from docstrings."""
PAGES = sorted({"README.md", "CONTRIBUTING.md", *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))})
PODS = "tpu/README.md"
"""A page whose commands are understood and never run: they are of a cloud."""
CLOUD = {"docker", "gcloud", "kubectl"}
PROGRAMS = {"cat", "grep", "mkdir", "pip", "python", "rm", "tail", "truncate", ".venv/bin/python"} | CLOUD
"""What commands may call besides jaxalign, make and the scripts of tpu/."""


@dataclass(frozen=True)
class Command:
    """A line behind `$ `; `shown` is what stands below it."""

    line: int
    text: str
    shown: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code that is expected."""
        found = re.search(r"# exit code (\d+)$", self.text)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Block:
    """One block of code; `mark` is the comment above it, without its brackets."""

    page: str
    line: int
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str:
        """The file that it is, or ""."""
        return self.mark.removeprefix("file: ") if self.mark.startswith("file: ") else ""

    def write(self, folder: Path) -> None:
        """Writes the file that it is, below `folder`."""
        (folder / self.file).parent.mkdir(parents=True, exist_ok=True)
        (folder / self.file).write_text(self.text)

    @property
    def not_run(self) -> str:
        """Why its commands are not run, or ""."""
        return self.mark.removeprefix("not run: ") if self.mark.startswith("not run: ") else ""

    @property
    def commands(self) -> tuple[Command, ...]:
        """Those of a block of `console`, in order."""
        if self.language != "console":
            return ()
        found: list[Command] = []
        for number, line in enumerate(self.text.splitlines(), self.line + 1):
            if line.startswith("$ "):
                found.append(Command(number, line[2:], ()))
            elif found and not found[-1].shown and found[-1].text.endswith("\\"):
                last = found.pop()
                found.append(Command(last.line, last.text[:-1] + line.lstrip(), ()))
            elif found:
                last = found.pop()
                found.append(Command(last.line, last.text, (*last.shown, line)))
        return tuple(found)


def blocks(page: str, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page, in order; of `text` where it is given."""
    lines = ((ROOT / page).read_text() if text is None else text).splitlines()
    begin: int | None = None
    for number, line in enumerate(lines):
        if begin is None and line.startswith("```"):
            begin = number
        elif begin is not None and line == "```":
            mark = re.fullmatch(r"<!-- (.*) -->", lines[begin - 1]) if begin else None
            content = "".join(f"{each}\n" for each in lines[begin + 1 : number])
            yield Block(page, begin + 1, lines[begin][3:], content, mark[1] if mark else "")
            begin = None


@cache
def site() -> ModuleType:
    """docs/pages.py, which knows links."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(page: str) -> set[str]:
    """What links may name in a page: its headings, as forges and the site write them."""
    found: list[str] = []
    for part in (
        site()
        .CODE.sub(lambda code: code[0].strip("`") if "\n" not in code[0] else "", (ROOT / page).read_text())
        .splitlines()
    ):
        if heading := re.match(r"#+ (.*)", part):
            words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
            found.append(re.sub(r"[^\w\- ]", "", words).replace(" ", "-"))
    return {f"{name}-{found[:index].count(name)}".removesuffix("-0") for index, name in enumerate(found)}


# ----------------------------------------------------------------------------------------------------------------------
# Commands


def simple_commands(text: str) -> list[list[str]]:
    """The words of each command that a shell would start for a line, without redirections and comments."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found: list[list[str]] = [[]]
    skip = False
    for word in words:
        if skip or word in (">", ">>", "<", "2>"):
            skip = not skip
        elif word in (";", "|", "||", "&&"):
            found.append([])
        else:
            found[-1].append(word)
    return found


def targets() -> set[str]:
    """What can be made."""
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def understood(words: list[str], here: Path) -> None:
    """Raises what is wrong with a command in the folder `here`. `init` copies; of all others nothing is computed."""
    program, *rest = words
    if program == "jaxalign":
        understood_verb(rest)
    elif program == "make":
        unknown = {word for word in rest if "=" not in word} - targets()
        assert not unknown, f"make: no target {unknown}"
    elif program.startswith("tpu/"):
        assert (ROOT / program).is_file(), f"{program}: no such script"
        understood_launch(rest)
    else:
        assert program in PROGRAMS, f"{program}: not a program that docs use"
        if program == "python" and not rest[0].startswith("-"):
            assert (here / rest[0]).is_file(), f"{rest[0]}: no such file"


def understood_launch(words: list[str]) -> None:
    """What jaxalign makes of the config and the options with a dot that a script of tpu/ gives to hosts; with `--data`,
    where weights and prompts lie in one folder, the config's own `models/` and `data/` are all replaced."""
    from jaxalign.config.load import load, override, validate
    from jaxalign.config.resolved import dump

    configs = [word for word in words if word.startswith("configs/")]
    pairs = zip(words, [*words[1:], ""], strict=True)
    options = [
        word
        for name, value in pairs
        if re.match(r"--\w+\.", name)
        for word in ((name,) if "=" in name else (name, value))
    ]
    for config in configs:
        experiment = override(load(config), options)
        validate(experiment)
        left = re.findall(r'"((?:models|data)/[^"]*)"', json.dumps(dump(experiment)))
        assert not left or "--data" not in words, f"hosts have no {left}"


def understood_verb(words: list[str]) -> None:
    """What `jaxalign` makes of a command line before it computes: verb, options, config, fields, data."""
    from jaxalign.commands import command_of, declare, look, verbs
    from jaxalign.config.load import load, override, validate
    from jaxalign.machine import Placement

    if words == ["--version"]:
        return
    verb, *rest = words
    assert verb in verbs(), f"no verb {verb}"
    command = command_of(verb)
    if verb == "bench":  # all benchmarks together take seconds to import
        command, rest = importlib.import_module(f"jaxalign.bench.{rest[0]}"), rest[1:]
    parser = argparse.ArgumentParser(prog=f"jaxalign {verb}", exit_on_error=False, **look(command))
    declare(parser, command)
    if verb == "bench":
        parser.add_argument("--json", action="store_true")
    args, options = parser.parse_known_args(rest)
    args.rest = options
    if verb == "init":
        command.run(args)
    elif verb == "data":
        command._source(args, args.file)
    elif not args.experiment_options:
        assert options == [], f"jaxalign {verb}: unrecognized {options}"
        if verb in ("export", "import"):  # what is named later is there
            Path(args.directory).mkdir(parents=True, exist_ok=True)
    elif verb == "sweep":
        command.cells_of(args.configs, options)
    elif "config" in args and verb not in ("eval", "sample"):
        validate(override(load(args.config), options))
    else:
        validate(override(Placement(), options))


def problems(page: str, text: str | None = None) -> Iterator[str]:
    """What is not understood of a page's commands, line by line, in a folder that has what it wrote and copied before.
    A command that is to end with the exit code of configs must be refused, unless its run directory may do so."""
    from jaxalign.errors import ConfigError, JaxalignError

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        here = Path(folder)
        (here / "configs").symlink_to(ROOT / "configs")
        for block in blocks(page, text):
            if block.file:
                block.write(here)
            for command in block.commands:
                where, refused = f"{page}:{command.line}: {command.text}", False
                try:
                    for words in simple_commands(command.text):
                        understood(words, here)
                except ConfigError as error:
                    refused = True
                    if command.code != ConfigError.exit_code:
                        yield f"{where}: {error}"
                except (AssertionError, JaxalignError, argparse.ArgumentError, SystemExit) as error:
                    yield f"{where}: {error}"
                # a run directory may refuse what a config does not
                if command.code == ConfigError.exit_code and not refused and "--workdir" not in command.text:
                    yield f"{where}: is no error"


# ----------------------------------------------------------------------------------------------------------------------
# Names


@cache
def classes() -> dict[str, set[str]]:
    """Names of the package's classes → names of their fields, inherited ones too; of classes of one name all."""
    fields: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for file in (ROOT / "jaxalign").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                own = {
                    each.target.id
                    for each in node.body
                    if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
                }
                fields.setdefault(node.name, set()).update(own)
                bases.setdefault(node.name, set()).update(base.id for base in node.bases if isinstance(base, ast.Name))
    for _ in range(3):  # bases of bases
        for name, above in bases.items():
            fields[name] |= {field for base in above for field in fields.get(base, ())}
    return fields


def spans(page: str) -> Iterator[str]:
    """Inline code of a page."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    yield from (found[1] for found in re.finditer(r"`([^`\n]+)`", text))


def unknown_names(code: str) -> list[str]:
    """Components and settings in an expression of a config that the package does not have."""
    try:
        tree = ast.parse(re.sub(r",? ?…,? ?", "", code))
    except SyntaxError:
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id[0].isupper():
            known: Any = classes().get(node.func.id)
            if known is None:
                found.append(node.func.id)
            else:
                given = {each.arg for each in node.keywords if each.arg}
                found += [f"{node.func.id}.{name}" for name in sorted(given - known)]
    return found


if (
    __name__ == "__main__"
):  # apart from pytest, where all that configs import would be imported with annotations checked
    asked = json.load(sys.stdin)
    json.dump({page: list(problems(page, text)) for page, text in asked.items()}, sys.stdout)
