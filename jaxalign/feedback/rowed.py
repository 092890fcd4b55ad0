"""Whether rows hold the groups of a run, before any compute."""

from dataclasses import replace

from jaxalign.contracts.extras import extras_of
from jaxalign.data.trained import as_trained
from jaxalign.errors import DataError
from jaxalign.feedback.contract import Comparer
from jaxalign.feedback.recorded import Recording
from jaxalign.feedback.sampled import Sampling
from jaxalign.models.model import Model
from jaxalign.rollouts.lengths import encoded
from jaxalign.training.packed import Packed
from jaxalign.training.row_rule import RowRule


def check_rows(rows: RowRule, loss: object, comparer: Comparer, model: Model, iterations: int) -> None:
    """DataError where rows that refuse longer groups do not hold those that are recorded, or that answers of the
    greatest length would make."""
    if isinstance(comparer, Recording):
        # of each iteration that draws pairs: how long a stray is depends on what was drawn beside it
        for iteration in range(1 if comparer.spec.pairs_per_iteration is None else iterations):
            rows.within(as_trained(loss, comparer.groups(iteration)))
    elif isinstance(comparer, Sampling) and isinstance(rows, Packed) and rows.too_long == "refuse":
        longest = max((len(encoded(model.chat, prompt)) for prompt in comparer.used), default=0)
        sizes = replace(comparer.spec.sizes(model), prompt=longest)
        sizes = sizes.strayed if "stray" in extras_of(loss) else sizes
        if (most := sizes.prompt + sizes.responses * sizes.response) > rows.tokens:
            raise DataError(
                f"fit.rows: a prompt of {longest} tokens and {sizes.responses} answers of {sizes.response} have "
                f"{most}, a row {rows.tokens}: raise fit.rows.tokens, or leave such groups out (fit.rows.too_long drop)"
            )
