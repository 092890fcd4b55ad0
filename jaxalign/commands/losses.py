"""The objectives that a config can name, with their papers, or one of them with its formula and settings.

jaxalign losses                a line for each
jaxalign losses SimPO          formula, paper, settings, and the import for a config
jaxalign losses --markdown     all of it as a page: docs/losses.md
"""

import argparse
from typing import TYPE_CHECKING

from jaxalign.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxalign.losses.parts.catalogue import Entry

HELP = "the objectives there are, and what each says of itself"

INTRODUCTION = """# Losses

Made by `jaxalign losses --markdown` from the docstrings. A config imports the loss that it names; `--loss.beta 0.3` and
the like change its settings. *Reads* are references (`last`: the policy that sampled, `anchor`: the slowly swapped one)
and what else a loss asks for: `log_sum_p2` costs arithmetic in the pass over the vocabulary, `anchor_tokens` wants
`reference=Live()`, `edited` says in which tokens the answers of a pair differ, `stray` costs an answer to another
prompt beside each, `batch` orders, compares or counts all groups of an optimizer's step.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One loss, or all."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a loss, as its class is called")
    parser.add_argument("--markdown", action="store_true", help="print all of them as a page")


def run(args: argparse.Namespace) -> None:
    """Prints the table, one loss, or the page."""
    from jaxalign.losses.parts.catalogue import entries

    known = entries()
    if args.markdown:
        print(page(known), end="")
    elif args.name is None:
        print("\n".join(table(known)))
    else:
        print(described(chosen(known, args.name)), end="")


def chosen(known: "list[Entry]", name: str) -> "Entry":
    """The loss of that name, or the one that the field calls so, however it is capitalised. Raises ConfigError: with
    those that are called so, the reason where it is left out, or what is near."""
    from jaxalign.config.overrides import nearest
    from jaxalign.losses.parts.catalogue import CAPITALS
    from jaxalign.losses.parts.left_out import LEFT_OUT

    asked, by_name = name.lower(), {entry.name.lower(): entry for entry in known}
    if asked in by_name:
        return by_name[asked]
    called = [entry for entry in known if asked in entry.also]
    if len(called) == 1:
        return called[0]
    out = [reason for method, _, reason in LEFT_OUT if asked in {word.lower() for word in CAPITALS.findall(method)}]
    told = [entry.name for entry in called or known if asked in entry.words]
    if called or told:
        help = f"of it tell: {', '.join(told)}"
    elif out:
        help = f"it is left out: {out[0]}"
    else:
        near = [by_name[found.removeprefix("--")].name for found in nearest(asked, by_name)]
        help = f"nearest: {', '.join(near)}" if near else "see the table"
    raise ConfigError(f"no loss is called {name!r}; {help}")


def table(known: "list[Entry]") -> list[str]:
    """A line for each: name, what it reads, its settings, first paper, first line of its formula, first sentence."""
    rows = [("loss", "reads", "settings", "arXiv", "formula", "")] + [
        (entry.name, " ".join(entry.reads) or "-", short(entry), (*entry.papers, "-")[0], entry.line, entry.title)
        for entry in known
    ]
    *columns, last = zip(*rows, strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), end])
        for row, end in zip(rows, last, strict=True)
    ]


def short(entry: "Entry") -> str:
    """Settings with their defaults, those of parts without."""
    plain = ((name, default) for name, default, _ in entry.settings())
    return " ".join(f"{name}={default}" if default and "(" not in default else name for name, default in plain) or "-"


def described(entry: "Entry") -> str:
    """Everything that is said of one loss."""
    cls = type(entry.example)
    settings = "".join(
        f"    {name}{f' = {default}' if default else ''}\n        {doc}\n" for name, default, doc in entry.settings()
    )
    reads = ", ".join(entry.reads) or "no reference"
    live = "    from jaxalign.references.live import Live\n" if "anchor_tokens" in entry.reads else ""
    return (
        f"{entry.doc}\n\n{cls.__name__}: {cls.__doc__}\n\n    from {cls.__module__} import {cls.__name__}\n{live}\n"
        f"reads {reads}\n{settings}"
    )


def page(known: "list[Entry]") -> str:
    """A table of all losses, then each module's docstring once."""
    lines = [INTRODUCTION]
    for heading, kind in (("Of language models", False), ("Of score models", True)):
        of_kind = [entry for entry in known if entry.of_scores is kind]
        lines += [f"## {heading}\n", "| loss | reads | settings | paper |", "|---|---|---|---|"]
        lines += [
            f"| `{each.name}` | {' '.join(each.reads) or '–'} | {short(each)} | {links(each)} |" for each in of_kind
        ]
        lines.append("")
        for doc in dict.fromkeys(entry.doc for entry in of_kind):
            names = " · ".join(f"`{entry.name}`" for entry in of_kind if entry.doc == doc)
            lines += [f"### {names}\n", doc, ""]
    return "\n".join([*lines, *left_out()])


def left_out() -> "Iterator[str]":
    """What is not here, with the reason."""
    from jaxalign.losses.parts.left_out import LEFT_OUT

    yield "## Left out\n"
    for method, paper, reason in LEFT_OUT:
        source = f" ([{paper}](https://arxiv.org/abs/{paper}))" if paper else ""
        yield f"- {method}{source}: {reason}."
    yield ""


def links(entry: "Entry") -> str:
    """The papers, linked."""
    return ", ".join(f"[{number}](https://arxiv.org/abs/{number})" for number in entry.papers) or "–"
