"""Trees written into rows, NumPy alone: the trunk of each, a branch for each of its different responses.

Nothing here loops over tokens or groups: a step's rows are filled while the devices compute the step before.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxalign.data.groups import Taken, TrainingGroups
from jaxalign.types import Rows, pytree


@pytree
class Laid:
    """The a trees of some rows, row after row, and their z branches, tree after tree: of a tree the row that it lies
    in, which tree of the row it is, and its trunk; of a branch its tree, and which of the row's responses it is."""

    row: Int[np.ndarray, " a"]
    nth: Int[np.ndarray, " a"]
    prompt: Int[np.ndarray, "a p"]
    trunk: Int[np.ndarray, " a"]
    tree: Int[np.ndarray, " z"]
    place: Int[np.ndarray, " z"]
    tokens: Int[np.ndarray, "z t"]
    lengths: Int[np.ndarray, " z"]
    logps: Float[np.ndarray, "z t"] | None


def apart(taken: Taken) -> Laid:
    """Each group as the one tree of a row, with its responses as they are."""
    count, responses = taken.lengths.shape
    rows = np.arange(count, dtype=np.int32)

    def flat(table: np.ndarray) -> np.ndarray:
        return table.reshape(count * responses, *table.shape[2:])

    return Laid(
        row=rows,
        nth=np.zeros_like(rows),
        prompt=taken.prompt,
        trunk=taken.prompt_lengths.astype(np.int32),
        tree=np.repeat(rows, responses),
        place=np.tile(np.arange(responses, dtype=np.int32), count),
        tokens=flat(taken.tokens),
        lengths=flat(taken.lengths).astype(np.int32),
        logps=None if taken.logps is None else flat(taken.logps),
    )


def merged(
    groups: TrainingGroups, taken: Taken, numbers: Int[np.ndarray, " b"], each: int
) -> tuple[Laid, Int[np.ndarray, "b r"]]:
    """The groups of each row, those of one prompt as a tree of all their different responses; and which of its row's
    responses each response is."""
    there = np.flatnonzero(numbers >= 0)
    row, prompts, answers = there // each, groups.prompts[numbers[there]], groups.answers[numbers[there]]
    begins = np.ones(len(there), bool)
    begins[1:] = (np.diff(row) != 0) | (np.diff(prompts) != 0)
    tree = np.cumsum(begins) - 1  # of each group
    first = there[begins]
    line = np.repeat(tree, taken.lengths.shape[1])  # the tree of each response
    order = np.lexsort((answers.ravel(), line))
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(answers.ravel()[order]) != 0) | (np.diff(line[order]) != 0)
    which = np.empty(len(order), np.int64)
    which[order] = np.cumsum(fresh) - 1
    shown = order[fresh]  # a response that stands for all that say the same
    of_row = row[begins]  # of each tree
    place = _nth(of_row[line[shown]])
    branch = np.zeros(taken.lengths.shape, np.int32)
    branch[there] = place[which].reshape(answers.shape)
    at = there[shown // answers.shape[1]], shown % answers.shape[1]
    laid = Laid(
        row=of_row.astype(np.int32),
        nth=_nth(of_row),
        prompt=taken.prompt[first],
        trunk=taken.prompt_lengths[first].astype(np.int32),
        tree=line[shown],
        place=place,
        tokens=taken.tokens[at],
        lengths=taken.lengths[at].astype(np.int32),
        logps=None if taken.logps is None else taken.logps[at],
    )
    return laid, branch


def _nth(rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """Which of those of its row each is, where those of a row stand together."""
    count = np.arange(len(rows), dtype=np.int32)
    begins = np.ones(len(rows), bool)
    begins[1:] = np.diff(rows) != 0
    return count - np.maximum.accumulate(np.where(begins, count, 0))


def tabled(laid: Laid, shape: tuple[int, ...]) -> Float[np.ndarray, "n k t"] | None:
    """The log-probs of the responses of rows, zeros behind each; None where nobody asked for them."""
    if laid.logps is None:
        return None
    table = np.zeros(shape, np.float32)
    logps = laid.logps[:, : shape[2]]
    table[laid.row[laid.tree], laid.place, : logps.shape[1]] = np.where(_upto(laid.lengths, logps.shape[1]), logps, 0.0)
    return table


def to_width(ids: Int[np.ndarray, "b r t"], width: int) -> Int[np.ndarray, "b r width"]:
    """Ids cut, or filled up with -1, to so many."""
    table = np.full((*ids.shape[:2], width), -1, np.int32)
    table[:, :, : ids.shape[2]] = ids[:, :, :width]
    return table


def fill(rows: Rows, mask: Bool[np.ndarray, "b r t"], first: int, laid: Laid, each: int) -> None:
    """Writes trees into the rows from `first` on, which `rows` and `mask` are views of.

    A row is made of pieces: the trunk of a tree, a branch for each response, the next tree, padding. NumPy reads and
    writes the true cells of a mask row by row, so tokens come to their places in one assignment wherever both masks
    list them in this order.
    """
    count, width = rows.tokens.shape
    trees, branches = len(laid.row), len(laid.tree)
    # pieces in their order: each trunk stands in front of its branches, and padding behind all of a row
    piece = np.lexsort(
        (
            np.concatenate([np.zeros(trees, np.int32), np.ones(branches, np.int32), np.full(count, 2, np.int32)]),
            np.concatenate([laid.nth, laid.nth[laid.tree], np.full(count, each, np.int32)]),
            np.concatenate([laid.row, laid.row[laid.tree], np.arange(count, dtype=np.int32)]),
        )
    )
    grown = np.bincount(laid.tree, laid.lengths, trees).astype(np.int32)  # tokens of the branches of a tree
    used = np.bincount(laid.row, laid.trunk + grown, count).astype(np.int32)
    sizes = np.concatenate([laid.trunk, laid.lengths, width - used])[piece]
    starts = np.empty(len(piece), np.int64)  # column at which each trunk, branch and padding begins
    starts[piece] = np.cumsum(sizes) - sizes
    starts -= width * np.concatenate([laid.row, laid.row[laid.tree], np.arange(count)])
    trunk_at, branch_at = starts[:trees].astype(np.int32), starts[trees : trees + branches].astype(np.int32)

    def along(of_trees: np.ndarray, of_branches: np.ndarray, beyond: int) -> Int[np.ndarray, "n s"]:
        """What is said of each piece, at each of its tokens."""
        values = np.concatenate([of_trees, of_branches, np.full(count, beyond)]).astype(np.int32)
        return np.repeat(values[piece], sizes).reshape(count, width)

    group = (first + laid.row) * each + laid.nth
    rows.group[:] = along(group, group[laid.tree], -1)
    rows.branch[:] = along(np.zeros(trees), laid.place + 1, 0)
    inside = _upto(used, width)
    behind = laid.trunk[laid.tree]  # position of a branch's first token
    rows.position[:] = (np.arange(width, dtype=np.int32) - along(trunk_at, branch_at - behind, 0)) * inside

    said = _upto(laid.lengths, min(laid.tokens.shape[1], mask.shape[2]))
    answers = laid.tokens[:, : said.shape[1]][said]
    flat = np.empty(used.sum(), np.int32)
    in_trunk = (rows.branch == 0)[inside]
    flat[in_trunk] = laid.prompt[_upto(laid.trunk, laid.prompt.shape[1])]
    flat[~in_trunk] = answers
    rows.tokens[inside] = flat
    scored = np.bincount(laid.row[laid.tree], laid.lengths, count).astype(np.int32)
    listed = _upto(scored, rows.slot.shape[1])
    rows.target[listed] = answers

    mask[laid.row[laid.tree], laid.place] = _upto(laid.lengths, mask.shape[2])
    cell = (first + laid.row[laid.tree]) * mask[0].size + laid.place * mask.shape[2]
    nth = np.arange(len(answers), dtype=np.int32) - np.repeat(np.cumsum(laid.lengths) - laid.lengths, laid.lengths)
    rows.slot[listed] = np.repeat(cell, laid.lengths) + nth
    # A token's predecessor is its neighbour in the row, but the first token of a branch follows the last of the trunk.
    rows.source[listed] = np.where(
        nth == 0,
        np.repeat((trunk_at + laid.trunk - 1)[laid.tree], laid.lengths),
        np.repeat(branch_at, laid.lengths) + nth - 1,
    )


def _upto(counts: Int[np.ndarray, "*n"], width: int) -> Bool[np.ndarray, "*n width"]:
    """True in the first `counts` of `width` cells."""
    return np.arange(width, dtype=np.int32) < counts[..., None]
