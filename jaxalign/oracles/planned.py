"""What is known of a judge's programs before there are answers: shapes of the rows that it will read, and how many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxalign.contracts.scope import Site
from jaxalign.mesh.program import Program, Work
from jaxalign.mesh.sharding import full_rows, on, param_shardings, row_sharding
from jaxalign.models.model import Model, Source
from jaxalign.oracles.reading import Head, reading_program
from jaxalign.oracles.trees import Ids, lines, packed, width
from jaxalign.types import Params


@dataclass(frozen=True)
class Asked:
    """The most that is asked about a prompt: `samples` answers of `response` tokens, to a prompt of `prompt` tokens."""

    samples: int
    prompt: int
    response: int


@dataclass(frozen=True)
class JudgeProgram:
    """A judge's program, and the rows that it reads about a prompt."""

    program: Program
    rows: int
    """of one call, over all devices"""
    rows_a_prompt: int

    def calls(self, prompts: int, block: int) -> int:
        """How often it is called about so many prompts, judged in blocks of `block`: none is read with the next."""
        whole, rest = divmod(prompts, block)
        return whole * -(-block * self.rows_a_prompt // self.rows) - (-rest * self.rows_a_prompt // self.rows)


@runtime_checkable
class Planned(Protocol):
    """A component that judges with a model of its own. `opened` finds a source's model where its files are not."""

    def planned(self, site: Site, asked: Asked, opened: Callable[[Source], Model]) -> JudgeProgram: ...


def reading_of(
    name: str, model: Model, head: Head, site: Site, groups: Sequence[Sequence[Ids]], wanted: int, scored: bool
) -> JudgeProgram:
    """What reads such groups of conversations about one prompt; `wanted` numbers are asked of each, and `scored` is
    whether its vocabulary is."""
    there = model.on(site.mesh, site.rules)
    made, _ = lines(groups, there.config.context)
    rows, branches = full_rows(site.mesh, site.rows), max(len(line.branches) for line in made)
    blank = packed((), np.zeros(rows, bool), width(len(made[0])))
    asked = jax.ShapeDtypeStruct((rows, branches, wanted), np.int32)
    arguments = (weights_on(there, site), *by_rows((blank, asked), site))
    tokens = rows * blank.tokens.shape[1]
    work = Work(tokens, tokens, rows * branches if scored else 0, blank.tokens.shape[1], ("forward",))
    program = Program(name, reading_program(there, head, site), arguments, work, model=there)
    return JudgeProgram(program, rows, len(made))


def weights_on(there: Model, site: Site) -> Params:
    """Shapes of a judge's weights as they lie on a site, in the compute dtype."""
    shardings = param_shardings(site.mesh, site.rules, there.abstract(), there.axes)
    return jax.tree.map(on, jax.eval_shape(there.computing, there.abstract()), shardings)


def by_rows(arrays: Any, site: Site) -> Any:
    """Shapes of arrays that are split by rows."""
    return jax.tree.map(lambda leaf: on(leaf, row_sharding(site.mesh)), arrays)


def conversations(asked: Asked, context: int) -> list[list[int]]:
    """Ids of the longest conversations about a prompt, cut to a context: no two answers begin alike."""
    prompt = [0] * max(min(asked.prompt, context - asked.response), 0)
    return [(prompt + [answer] * asked.response)[:context] for answer in range(1, asked.samples + 1)]
