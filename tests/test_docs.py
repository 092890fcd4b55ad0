"""README and docs say what is: every command is understood by the real parsers, every link leads somewhere."""

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from made_pages import (
    GENERATED,
    PAGES,
    PODS,
    ROOT,
    anchors,
    blocks,
    classes,
    simple_commands,
    site,
    spans,
    targets,
    unknown_names,
)

from jaxalign.commands import verbs

NOT_RUN = {"CONTRIBUTING.md": 7, "README.md": 21, "docs/configs.md": 1, "docs/pod.md": 4, "docs/theory.md": 2}
"""Commands of each page that no test runs, each in a block that says why."""
FOREIGN = {"LoraConfig"}
"""Classes of others that pages call by name."""
WRITTEN = [page for page in PAGES if page not in GENERATED]
LAUNCH = re.compile(r"^ *(tpu/launch\.sh (?:.*\\\n)*.*)$", re.MULTILINE)


def launches() -> dict[str, str]:
    """Config → a page of the launch in its docstring."""
    files = sorted((ROOT / "configs").rglob("*.py"))
    texts = {str(file.relative_to(ROOT)): ast.get_docstring(ast.parse(file.read_text())) or "" for file in files}
    found = {name: LAUNCH.search(text) for name, text in texts.items()}
    return {name: f"```console\n$ {match[1]}\n```\n" for name, match in found.items() if match}


LAUNCHES = launches()


def test_pages_are_found():
    assert len(PAGES) > 15
    assert {"README.md", "docs/first_run.md", "docs/trl.md"} <= set(PAGES)


MISTAKES = {
    "jaxalign trian configs/tiny_lm.py": "no verb trian",
    "jaxalign train configs/tiny_ml.py": "no such config file",
    "jaxalign train configs/tiny_lm.py --loss.etta 1": "nearest: --loss.eta",
    "jaxalign train configs/tiny_lm.py --loss.eta 1     # exit code 2": "is no error",
    "jaxalign eval runs/x --mesh.fdsp 1": "mesh.fdsp",
    "jaxalign report runs/x --ou y": "unrecognized",
    "jaxalign evidence runs/x --against": "expected one argument",
    "jaxalign sweep configs/tiny_lm.py --workdir x --loss.eta 0.1 --loss.eta x": "loss.eta",
    "jaxalign data nothing.jsonl": "nothing.jsonl",
    "ls runs": "not a program",
    "cat x | make quickstar": "no target",
    "tpu/lunch.sh --dry-run": "no such script",
    "tpu/launch.sh configs/tiny_lm.py --zone a --loss.etta 1": "nearest: --loss.eta",
    "tpu/launch.sh configs/comal_llama3_8b_v5p_64.py --data gs://b/x --model.path /data/x": "hosts have no ['data/",
    "python nothing.py": "no such file",
}
"""Commands that nothing understands, and what is said of them."""


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    """Problems of each page, and of one whose commands are mistakes."""
    asked = (
        dict.fromkeys([*WRITTEN, PODS])
        | LAUNCHES
        | {"mistakes": "```console\n" + "".join(f"$ {line}\n" for line in MISTAKES) + "```\n"}
    )
    command = [sys.executable, str(ROOT / "tests" / "made_pages.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("page", [*WRITTEN, PODS, *LAUNCHES])
def test_every_command_is_understood(page, found):
    assert found[page] == []


def test_launches_of_configs_of_pods_say_where_their_files_lie():
    said = [name for name, text in LAUNCHES.items() if " --data gs://" in text]
    assert len(said) >= 6
    assert all(f"tpu/launch.sh {name} " in text for name, text in LAUNCHES.items())


def test_what_is_not_understood_is_found(found):
    assert len(found["mistakes"]) == len(MISTAKES)
    for (line, words), said in zip(MISTAKES.items(), found["mistakes"], strict=True):
        assert line in said
        assert words in said


def test_a_line_is_taken_apart_as_a_shell_does():
    line = "mkdir -p ~/a; jaxalign sample runs/x --prompt 'a; b' | tail -1 > ~/out     # and so on"
    assert simple_commands(line) == [
        ["mkdir", "-p", "~/a"],
        ["jaxalign", "sample", "runs/x", "--prompt", "a; b"],
        ["tail", "-1"],
    ]


def test_blocks_are_what_their_marks_say():
    page = "<!-- not run: hours -->\n```console\n$ make x     # exit code 3\n… no\nat all\n$ make \\\n    y\n```\n"
    page += "\n```python\na\n```\n"
    console, python = blocks("page", page)
    assert (console.not_run, python.mark) == ("hours", "")
    assert [(each.line, each.code, each.shown) for each in console.commands] == [(3, 3, ("… no", "at all")), (6, 0, ())]
    assert console.commands[1].text == "make y"
    assert (python.line, python.language, python.text) == (10, "python", "a\n")


@pytest.mark.parametrize("page", WRITTEN)
def test_code_is_where_it_is_tested(page):
    """Commands are in blocks of `console`; Python is a file, or says that it is none."""
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.language in ("console", "python", "json", "text", ""), f"{where}: {block.language}"
        if block.language != "console":
            assert not re.search(r"^(\$ |jaxalign |make )", block.text, re.MULTILINE), (
                f"{where}: commands in no console"
            )
        if block.language == "python":
            ast.parse(block.text)
            assert block.file.endswith(".py") or block.mark == "part of a config", f"{where}: what is this file called?"
            assert unknown_names(block.text) == [] or block.file, where


def test_what_is_not_run_is_known():
    found = Counter(block.page for page in PAGES for block in blocks(page) if block.not_run for _ in block.commands)
    assert found == NOT_RUN
    run = sum(len(block.commands) for page in PAGES for block in blocks(page) if not block.not_run)
    assert run > 3 * found.total() / 2


@pytest.mark.parametrize("page", [*WRITTEN, PODS])
def test_names_in_the_text_exist(page):
    """Components with their settings, targets, verbs and files of the repository, in inline code."""
    wrong = []
    fields = set.union(*classes().values())
    for span in spans(page):
        first, _, second = span.partition(" ")
        wrong += [name for name in unknown_names(span) if name not in FOREIGN]
        if first == "make" and second and "=" not in second:
            wrong += [span for word in second.split() if word not in targets() and not word.startswith(".")]
        if first == "jaxalign" and second[:1].islower() and second.split()[0] not in verbs():
            wrong.append(span)
        if re.fullmatch(r"(configs|tests|docs|tpu|jaxalign)/[a-z0-9_/]+\.\w+", span) and not (ROOT / span).exists():
            wrong.append(span)
        if found := re.fullmatch(r"(?:fit|placement|feedback|evaluation|optimizer)\.([\w.]+?)(=.*)?", span):
            wrong += [span for name in found[1].split(".") if name not in fields]
    assert wrong == []


def test_a_name_that_is_none_is_found():
    assert unknown_names("Composed(TokenMeen(JensenShannon()), Hinge(2.0), reach=1, …)") == [
        "Composed.reach",
        "TokenMeen",
    ]
    assert unknown_names("fit.keep") == []


@pytest.mark.parametrize("page", [*PAGES, "BENCHMARKS.md", "LOG.md", "CHANGELOG.md", "SECURITY.md", PODS])
def test_links_lead_somewhere(page):
    for link in site().links((ROOT / page).read_text()):
        path, anchor = site().target(page, link)
        assert (ROOT / path).is_file(), f"{page}: {link}"
        assert not anchor or anchor in anchors(path), f"{page}: {link}: there is {sorted(anchors(path))}"


def test_links_and_headings_are_read_as_they_are_shown():
    text = (
        "[a](b.md#c) and `[no](d.md)`\n\n```text\n[no](e.md)\n```\n\n    [no](f.md)\n\n[x](https://x.y) ![p](g.svg)\n"
    )
    assert list(site().links(text)) == ["b.md#c", "g.svg"]
    assert site().target("docs/x.md", "../README.md#here") == ("README.md", "here")
    assert site().target("docs/x.md", "#here") == ("docs/x.md", "here")
    assert "before-a-pod-is-spent-jaxalign-doctor" in anchors("docs/pod.md")


def test_every_page_has_its_line_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert [page for page in site().documents().values() if f"- {page}\n" not in navigation] == []


def test_the_reference_has_every_module_once():
    shown = [module for modules in site().rooms().values() for module in modules]
    modules = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "jaxalign").rglob("[!_]*.py")]
    assert len(modules) > 300
    assert len(shown) == len(set(shown))
    assert {each for each in modules if not each.startswith("jaxalign.commands.")} <= set(shown)


@pytest.mark.parametrize(
    ("page", "link", "turned"),
    [
        ("index.md", "docs/trl.md#data", "trl.md#data"),
        ("trl.md", "../README.md#words", "index.md#words"),
        ("trl.md", "../tests/test_docs.py", "source/tests/test_docs.py.md"),
        ("tpu/README.md", "../docs/pod.md", "../pod.md"),
        ("BENCHMARKS.md", "tpu/weak_scaling.svg", "tpu/weak_scaling.svg"),
        ("trl.md", "#data", "#data"),
        ("trl.md", "https://x.y/z.md", "https://x.y/z.md"),
    ],
)
def test_links_of_a_checkout_become_links_of_the_site(page, link, turned):
    shown = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    code = f"\n```text\n[a]({link})\n```\n"
    assert site().on_page_markdown(f"[a]({link}){code}", shown, None, None) == f"[a]({turned}){code}"
