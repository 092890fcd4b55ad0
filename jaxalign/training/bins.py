"""Sizes into bins that come out evenly: the next largest into the emptiest bin, and then exchanges with the fullest.

Longest processing time first is at most 4/3 of the best (Graham 1969, SIAM J. Appl. Math. 17(2)), and of many small
sizes within one of the smallest; where a bin has a handful of them, exchanges take off what the order has left uneven.
First-fit decreasing would fill bins to the brim and leave the last one empty: here all rows of a step, and so all
devices and hosts, have the same to compute.
"""

import heapq

import numpy as np
from jaxtyping import Int

EVEN = 0.002
"""By what part of the mean the fullest bin may be above it before anything is exchanged."""

EXCHANGES = 8
"""For each bin, at most."""

NEAR = 16
"""Bins that the fullest exchanges with: the emptiest ones."""


def evenly(sizes: Int[np.ndarray, " a"], count: int) -> Int[np.ndarray, " a"]:
    """The bin, of `count`, that each size comes into. Of equal sizes the first goes first, of equal bins the first."""
    found = np.zeros(len(sizes), np.int64)
    bins = [(0, number) for number in range(count)]
    for each in np.argsort(-sizes, kind="stable").tolist():
        filled, number = bins[0]
        found[each] = number
        heapq.heapreplace(bins, (filled + int(sizes[each]), number))
    return exchanged(sizes, found, count)


def exchanged(sizes: Int[np.ndarray, " a"], at: Int[np.ndarray, " a"], count: int) -> Int[np.ndarray, " a"]:
    """The same bins after exchanges of the fullest with one of the emptiest, a size for another or for nothing: each
    time that after which the fuller of both is emptiest, as long as it is less full than the fullest was."""
    at, filled = at.copy(), np.bincount(at, sizes, count).astype(np.int64)
    mean = filled.mean()
    members = [each.tolist() for each in np.split(np.argsort(at, kind="stable"), np.cumsum(np.bincount(at))[:-1])]
    members += [[] for _ in range(count - len(members))]
    for _ in range(EXCHANGES * count):
        full = int(np.argmax(filled))
        if filled[full] - mean <= EVEN * mean:
            break
        emptiest = np.argsort(filled, kind="stable")[:NEAR]
        others = np.array([each for number in emptiest if number != full for each in members[number]], np.int64)
        own = np.array(members[full])
        # what comes in exchange: a size, or nothing from the emptiest bin
        back, whence = np.append(sizes[others], 0), np.append(at[others], emptiest[0])
        less = sizes[own][:, None] - back
        fuller = np.maximum(filled[full] - less, filled[whence] + less)
        one, other = np.unravel_index(fuller.argmin(), fuller.shape)
        if not fuller[one, other] < filled[full]:
            break
        to, goes = int(whence[other]), int(own[one])
        members[full].remove(goes)
        members[to].append(goes)
        if other < len(others):
            comes = int(others[other])
            members[to].remove(comes)
            members[full].append(comes)
            at[comes] = full
        at[goes] = to
        filled[full] -= less[one, other]
        filled[to] += less[one, other]
    return at


def fewest(sizes: Int[np.ndarray, " a"], room: int, multiple: int) -> int:
    """A number of bins, a multiple of `multiple`, in which `evenly` puts at most `room` of these sizes each: the least,
    or few more where large sizes leave much room. None of them may be larger than that."""
    count = multiple * max(1, -(-int(sizes.sum()) // (room * multiple)))
    while (fullest := np.max(np.bincount(evenly(sizes, count), sizes, count))) > room:
        count += multiple * max(1, int(count * (fullest / room - 1) / 4) // multiple)
    return count
