"""Losses that regress a margin on a wanted one: how much a pair is to be moved can be said beforehand, in nats.

    loss = (margin − wanted)² + what no policy changes

Of a certain label INPO wants 1/(2 eta) and IPO 1/(2 tau); of P(chosen ≻ rejected) = p, 2p − 1 of that. Where the margin
of a policy moves by d on pairs whose margin still lacks w, the mean loss changes by E d² − 2 E w d: a fit may go the
right way (E w d > 0) and yet raise its loss, by going too far.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float

from jaxalign.types import GroupLogps


@runtime_checkable
class Regresses(Protocol):
    """Such a loss of pairs, of log-prob sums alone."""

    def margins(self, logps: GroupLogps) -> Float[Array, " b"]:
        """What is regressed, nats."""
        ...

    def wanted(self, logps: GroupLogps) -> Float[Array, " b"]:
        """What it is regressed on, nats: the expectation over the label."""
        ...


def regressed(margin: Float[Array, " b"], prefer: Float[Array, " b"], certain: float) -> Float[Array, " b"]:
    """p (margin − certain)² + (1 − p) (margin + certain)², nats², p = `prefer`: the squared distance from a certain
    label's margin, expected over the label.

    Written as (margin − wanted)² + 4 p (1 − p) certain². Where eta is small both terms above pull by hundreds of nats,
    and what fp32 leaves of their difference is off by up to 5e-5 nats at .002.
    """
    return (margin - expected(prefer, certain)) ** 2 + 4 * prefer * (1 - prefer) * certain**2


def expected(prefer: Float[Array, " b"], certain: float) -> Float[Array, " b"]:
    """What is wanted of a pair of label `prefer`, where `certain` is of one whose label is 1."""
    return (2 * prefer - 1) * certain
