"""Prompts from small files and texts, for tests of their sources and order."""

import pathlib

import pytest

from jaxalign.data.prompts import InlinePrompts, JsonlPrompts, PromptSet
from jaxalign.errors import DataError
from jaxalign.types import Prompt


def inline(count: int) -> PromptSet:
    return InlinePrompts(tuple(f"Question {number}?" for number in range(count))).open(pathlib.Path("unused"))


def written(folder: pathlib.Path, *lines: str | bytes, name: str = "rows.jsonl") -> pathlib.Path:
    path = folder / name
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def opened(path: pathlib.Path, **options: object) -> PromptSet:
    return JsonlPrompts(str(path), **options).open(path.parent / "cache")


def refusal(path: pathlib.Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, **options)
    cache = path.parent / "cache"
    assert not cache.exists() or list(cache.iterdir()) == [], "nothing may be left of a refused file"
    return str(caught.value)


def contents(prompts: PromptSet) -> list[Prompt]:
    return [prompts[index] for index in range(len(prompts))]
