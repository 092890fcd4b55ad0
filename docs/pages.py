"""What the site has beside docs/*.md: MkDocs calls `on_config`, `on_files` and `on_page_markdown` (mkdocs.yml, hooks).

Documents of the repository's root are pages too, the README the first one. Links between documents are written for a
checkout; here they are turned to the site's pages, and each other file that is linked to gets a page that shows it.
The reference has a page for each room of the package (griffe reads the sources, nothing is imported), and the page of
the command line is what the verbs' parsers print.
"""

import argparse
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxalign"

OUTER = {
    "README.md": "index.md",
    **{name: name for name in ("BENCHMARKS.md", "LOG.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")},
    "tpu/README.md": "tpu/README.md",
}
"""Documents outside docs/ → their pages."""

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
"""The target of a link in Markdown, between what is around it."""
CODE = re.compile(r"(^```.*?^```$|^~~~.*?^~~~$|`[^`\n]+`(?!\])|^ {4}[^\n]*$)", re.MULTILINE | re.DOTALL)
"""Blocks and spans that are no text."""
PICTURES = (".svg", ".png")


def documents() -> dict[str, str]:
    """Every document that the site shows: path in the repository → path of its page."""
    return {f"docs/{file.name}": file.name for file in sorted((ROOT / "docs").glob("*.md"))} | OUTER


def links(text: str) -> Iterator[str]:
    """Targets of the links in Markdown that lead to other files or to headings here; code is left out."""
    for part in CODE.split(text)[::2]:
        for found in LINK.finditer(part):
            if "://" not in found[2] and not found[2].startswith("mailto:"):
                yield found[2]


def target(document: str, link: str) -> tuple[str, str]:
    """What a link in a document leads to: path in the repository, and the heading's anchor or ""."""
    path, _, anchor = link.partition("#")
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), path)) if path else document, anchor


def page_of(path: str) -> str:
    """The site's page that shows a file of the repository; of a picture its place."""
    return documents().get(path) or (path if path.endswith(PICTURES) else f"source/{path}.md")


def rooms() -> dict[str, list[str]]:
    """Pages of the reference: room → its modules. The modules at the top of the package, the algorithm, are one."""
    found = {"jaxalign": ["jaxalign", *(f"jaxalign.{file.stem}" for file in _modules(PACKAGE))]}
    for folder in sorted(each.parent for each in PACKAGE.rglob("__init__.py") if each.parent != PACKAGE):
        name = ".".join(folder.relative_to(ROOT).parts)
        own = [name] if (folder / "__init__.py").read_text().strip() else []
        found[name] = own + [f"{name}.{file.stem}" for file in _modules(folder)]
    return {name: modules for name, modules in found.items() if modules and name != "jaxalign.commands"}


def _modules(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.py")) if not file.stem.startswith("__")]


def reference(room: str, modules: list[str]) -> str:
    """The page of a room, for mkdocstrings."""
    return "\n\n".join([f"# `{room}`", *(f"::: {module}" for module in modules)]) + "\n"


def shown(path: str) -> str:
    """A page with a file of the repository as it is."""
    kind = {".py": "python", ".sh": "bash", ".json": "json", ".toml": "toml"}.get(Path(path).suffix, "text")
    return f"# {path}\n\n~~~~~~ {kind}\n{(ROOT / path).read_text()}\n~~~~~~\n"


def command_line() -> str:
    """What `jaxalign VERB --help` prints, for every verb, a hundred columns wide."""
    from jaxalign.commands import command_of, declare, look, verbs

    os.environ["COLUMNS"] = "100"
    told = [
        "# The command line\n",
        "What `jaxalign VERB --help` prints. Options of an experiment come on top of these.",
    ]
    for verb in verbs():
        parser = argparse.ArgumentParser(prog=f"jaxalign {verb}", **look(command_of(verb)))
        declare(parser, command_of(verb))
        told.append(f"## {verb}\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(told) + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# Called by MkDocs


def on_config(config: Any) -> Any:
    """The rooms of the package into the navigation."""
    config.nav.insert(len(config.nav) - 1, {"Reference": [f"api/{room}.md" for room in rooms()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """The pages that do not lie in docs/."""
    from mkdocs.structure.files import File, InclusionLevel

    made = {page: (ROOT / path).read_text() for path, page in OUTER.items()}
    made |= {f"api/{room}.md": reference(room, modules) for room, modules in rooms().items()}
    made["commands.md"] = command_line()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    linked = {target(path, link)[0] for path in documents() for link in links((ROOT / path).read_text())}
    for path in sorted(linked - set(documents())):
        content = (ROOT / path).read_bytes() if path.endswith(PICTURES) else shown(path)
        files.append(File.generated(config, page_of(path), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links between documents as links between pages."""
    document = {shown: path for path, shown in documents().items()}.get(page.file.src_uri)
    if document is None:
        return markdown
    own = posixpath.dirname(page.file.src_uri)

    def turned(found: re.Match[str]) -> str:
        if "://" in found[2] or found[2].startswith(("mailto:", "#")):
            return found[0]
        path, anchor = target(document, found[2])
        return f"{found[1]}{posixpath.relpath(page_of(path), own or '.')}{'#' if anchor else ''}{anchor}{found[3]}"

    parts = CODE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(turned, part) for index, part in enumerate(parts))
