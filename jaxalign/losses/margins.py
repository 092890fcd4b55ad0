"""What pair losses share: the margin between chosen and rejected, and the expectation over an uncertain label."""

from jaxtyping import Array, Float


def margin(values: Float[Array, "b r"]) -> Float[Array, " b"]:
    """Chosen minus rejected (responses 0 and 1), in the unit of `values`."""
    return values[:, 0] - values[:, 1]


def expected_over_labels(
    prefer: Float[Array, " b"], as_labelled: Float[Array, " b"], flipped: Float[Array, " b"]
) -> Float[Array, " b"]:
    """E over the label: the loss with the pair as it stands with probability `prefer`, else with its roles swapped.

    For a squared loss this has the gradient of the loss on drawn labels in expectation, with less noise.
    """
    return prefer * as_labelled + (1 - prefer) * flipped
