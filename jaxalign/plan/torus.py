"""Where the devices of a group lie in a torus, and what links and hops that gives them.

Chips are joined to their neighbours along two or three axes. Of an axis of n chips that closes to a ring, a group that
has all of it uses both of a chip's links; any other part of an axis is a line, whose end has one link into the group,
so that all that it receives comes over that one. k chips that lie `stride` apart, with other groups' between them,
share each link with those: 1 / stride of it is theirs.

    links     Σ over axes (2 of a whole ring, 1 of a line) / stride
    hops      Σ over axes (half a ring, a line's length)        the longest way, axis by axis
    crossing  max over axes k · stride (1/8 of a whole ring, 1/4 of a line)
              what an all-to-all puts on a link in the middle, in local operands: half of the chips send half of theirs
              over it, or over two of a ring

(Austin et al. 2025, How to Scale Your Model, parts 2 and 3. Slices that are twisted, which brings chips nearer to one
another, are counted as if they were not.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

Place = tuple[int, ...]
"""Coordinates of a chip, one an axis."""


@dataclass(frozen=True)
class Span:
    """What a group has of a torus."""

    links: float
    """links of a chip, in one direction each, that carry what the group sends"""
    hops: int
    """of the longest way between two of the group"""
    crossing: float
    """local operands of an all-to-all that go over the busiest link"""


NEXT = Span(1.0, 1, 0.5)
"""Two devices of one chip, or any that a switch joins."""


@dataclass(frozen=True)
class Torus:
    """A slice, and where in it each partition of a program runs."""

    places: tuple[Place, ...]
    dims: Place
    rings: tuple[bool, ...]
    """which axes close"""

    def span(self, group: Sequence[int]) -> Span:
        """Of the partitions of a group."""
        links, hops, crossing = 0.0, 0, 0.0
        for axis, (size, ring) in enumerate(zip(self.dims, self.rings, strict=True)):
            there = sorted({self.places[each][axis] for each in group})
            if len(there) == 1:
                continue
            stride = (there[-1] - there[0]) // (len(there) - 1)
            closed = ring and stride * len(there) == size and size > 2
            links += (2 if closed else 1) / stride
            hops += size // 2 if closed else there[-1] - there[0]
            crossing = max(crossing, len(there) * stride / (8 if closed else 4))
        return Span(links, hops, crossing) if hops else NEXT

    def apart(self, one: int, other: int) -> int:
        """Hops from one partition to another."""
        ways = (
            (abs(a - b), size, ring)
            for a, b, size, ring in zip(self.places[one], self.places[other], self.dims, self.rings, strict=True)
        )
        return sum(min(way, size - way) if ring else way for way, size, ring in ways)
