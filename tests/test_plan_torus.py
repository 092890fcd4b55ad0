"""Groups of devices in a torus: which axes close, and what links and hops a group has, by hand."""

from itertools import product

import pytest

from jaxalign.plan.chips import topology
from jaxalign.plan.collectives import collectives
from jaxalign.plan.hlo import parse
from jaxalign.plan.torus import NEXT, Span, Torus
from jaxalign.plan.walk import walk


def torus(name: str) -> Torus:
    """A partition a chip, in the order of the coordinates."""
    found = topology(name)
    return Torus(tuple(product(*map(range, found.dims))), found.dims, found.rings)


def where(name: str, *sides: range) -> list[int]:
    """Partitions whose chips lie in these ranges of coordinates."""
    return [
        n for n, place in enumerate(torus(name).places) if all(x in side for x, side in zip(place, sides, strict=True))
    ]


@pytest.mark.parametrize(
    ("name", "rings"),
    [
        ("v5p:4x4x4", (True, True, True)),
        ("v5p:4x4x8", (True, True, True)),
        ("v5p:2x2x4", (False, False, False)),  # no cube, no optical switches
        ("v5p:2x4x4", (False, False, False)),
        ("v4:4x4x4", (True, True, True)),
        ("tpu7x:2x2x4", (False, False, False)),
        ("v5e:16x16", (True, True)),
        ("v5e:8x16", (False, True)),
        ("v6e:8x8", (False, False)),
    ],
)
def test_axes_that_close(name, rings):
    assert topology(name).rings == rings


@pytest.mark.parametrize(
    ("name", "sides", "links", "hops"),
    [
        ("v5p:2x2x4", (range(2), range(2), range(4)), 3, 1 + 1 + 3),  # not the four that rings of 4 would give
        ("v5p:2x4x4", (range(1), range(4), range(4)), 2, 3 + 3),
        ("v5p:4x4x4", (range(4), range(4), range(4)), 6, 2 + 2 + 2),
        ("v5p:4x4x8", (range(1), range(1), range(8)), 2, 4),
        ("v5p:4x4x8", (range(1), range(1), range(4)), 1, 3),  # half of a ring is a line
        ("v5p:4x4x8", (range(2), range(1), range(1)), 1, 1),
        ("v5e:4x4", (range(4), range(4)), 2, 3 + 3),
        ("v5e:16x16", (range(16), range(1)), 2, 8),
        ("v5e:8x16", (range(8), range(16)), 3, 7 + 8),
    ],
)
def test_links_and_hops_of_a_group(name, sides, links, hops):
    found = torus(name).span(where(name, *sides))
    assert (found.links, found.hops) == (links, hops)


def test_groups_among_one_another_share_links():
    """Every fourth chip of a ring of 16: four such groups go around the same links."""
    found = torus("v5e:16x16").span(where("v5e:16x16", range(0, 16, 4), range(1)))
    assert (found.links, found.hops) == (2 / 4, 8)
    assert torus("v5p:4x4x8").span(where("v5p:4x4x8", range(1), range(1), range(0, 8, 4))).links == 2 / 4
    assert torus("v5e:8x8").span(where("v5e:8x8", range(0, 8, 4), range(1))) == Span(1 / 4, 4, 2.0)


def test_an_all_to_all_crosses_the_middle():
    """Of a ring of 16 each half sends half of its 8 operands to the other over two links: 2 operands a link."""
    assert torus("v5e:16x16").span(where("v5e:16x16", range(16), range(1))).crossing == 2
    assert torus("v5e:8x8").span(where("v5e:8x8", range(8), range(1))).crossing == 2  # over one link
    assert torus("v5e:2x2").span([0, 1]).crossing == 0.5


def test_devices_of_one_chip_are_next_to_each_other():
    twice = Torus(((0, 0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 1)), (2, 2, 2), (False,) * 3)
    assert twice.span([0, 1]) == NEXT
    assert twice.span([0, 1, 2, 3]) == Span(1.0, 1, 0.5)


def test_the_shorter_way_around_a_ring():
    ring, line = torus("v5e:16x16"), torus("v5e:8x8")
    assert ring.apart(0, 15) == 1
    assert ring.apart(0, 16 * 15 + 8) == 1 + 8
    assert line.apart(0, 7) == 7


TEXT = """HloModule made, num_partitions=16

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %all = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=[1,16]<=[16], to_apply=%sum
  %four = f32[8]{0} all-reduce(%all), channel_id=2, replica_groups=[4,4]<=[16], to_apply=%sum
  %apart = f32[8]{0} all-reduce(%four), channel_id=3, replica_groups=[4,4]<=[4,4]T(1,0), to_apply=%sum
  ROOT %next = f32[8]{0} collective-permute(%apart), channel_id=4, source_target_pairs={{0,1},{3,12}}
}
"""


def test_groups_are_looked_up_where_their_partitions_run():
    """On 2x2x4 chips: all of them; the four of an axis of 4; the 2x2 of the other two; a permute across the slice."""
    module = parse(TEXT)
    sent = {each.name: each.span for each in collectives(module, walk(module), torus=torus("v5p:2x2x4"))}
    assert (sent["all"].links, sent["all"].hops) == (3, 5)
    assert (sent["four"].links, sent["four"].hops) == (1, 3)
    assert (sent["apart"].links, sent["apart"].hops) == (2, 2)
    assert sent["next"].hops == 1 + 1 + 3
    assert all(each.span == NEXT for each in collectives(module, walk(module)))
