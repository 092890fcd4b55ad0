"""What an experiment tells of a model's conversations that its files do not say, or say otherwise.

A base model has no chat template; many templates ask for variables that nobody sets (`enable_thinking`); files may
leave out a token that ends turns. Variables become statements in front of the template, so that an export hands them
on: there they are defaults, which whoever serves the model may set otherwise.
"""

import dataclasses
import json
import math
from collections.abc import Sequence

import tokenizers

from jaxalign.errors import ModelError
from jaxalign.formats.huggingface import folder

Variable = tuple[str, bool | int | float | str | None]
"""A name that a template asks for, and its value."""

FIXED = ("messages", "tools", "documents", "add_generation_prompt", "strftime_now")
"""Names that every conversation sets itself."""


@dataclasses.dataclass(frozen=True)
class Told:
    """See the module's docstring. `template` is a file, "" for none; `ends` are tokens that end a turn, beside those
    that the model's files name."""

    template: str = ""
    variables: tuple[Variable, ...] = ()
    ends: tuple[str, ...] = ()

    def text(self) -> str | None:
        """The template that is told, None where there is none. Raises ModelError where the file is no text."""
        if not self.template:
            return None
        try:
            return folder(self.template).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise ModelError(f"template: {self.template}: not readable text ({error})") from error

    def set(self, template: str) -> str:
        """The template, behind statements that give the variables the values which nobody has given them."""
        # a line of its own: the line break behind a statement is left out, and what follows begins a line as before
        lines = [
            f"{{% if {name} is not defined %}}{{% set {name} = {_literal(value)} %}}{{% endif %}}\n"
            for name, value in self.variables
        ]
        return "".join([*lines, template])

    def stop(self, stop: Sequence[int], tokenizer: tokenizers.Tokenizer) -> tuple[int, ...]:
        """The ids that end a turn, these among them. Raises ModelError for what is no token."""
        ids = [tokenizer.token_to_id(token) for token in self.ends]
        for token, found in zip(self.ends, ids, strict=True):
            if found is None:
                raise ModelError(f"ends: {token!r} is no token of the model")
        return tuple(dict.fromkeys([*stop, *(found for found in ids if found is not None)]))

    def problems(self) -> list[str]:
        """What is wrong with the names."""
        names = [name for name, _ in self.variables]
        wrong = [name for name in names if not (name.isascii() and name.isidentifier()) or name in FIXED]
        return (
            [f"variables: {name!r} is no name that can be set" for name in wrong]
            + [
                f"variables: {name!r} is there twice"
                for name in sorted({name for name in names if names.count(name) > 1})
            ]
            + [
                f"variables: {name!r} must be finite, got {value}"
                for name, value in self.variables
                if isinstance(value, float) and not math.isfinite(value)
            ]
        )


NOTHING = Told()
"""The files say all."""


def _literal(value: bool | int | float | str | None) -> str:
    """A value as Jinja writes it, which are JSON's spellings but for None."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
