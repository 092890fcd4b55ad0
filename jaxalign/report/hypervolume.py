"""The hypervolume of a set of points: what of objective space they are better than, measured from a reference.

    HV(P, r) = volume of ∪_{x ∈ P} [r, x],    every objective the better the larger

Zitzler & Thiele 1998 (PPSN V). Exact, by slices along the last objective; of two objectives it is a sum over the front.
"""

import numpy as np
from jaxtyping import Bool, Float


def hypervolume(points: Float[np.ndarray, "n o"], reference: Float[np.ndarray, " o"]) -> float:
    """In the product of the objectives' units; points that are not better than the reference in all of them add 0."""
    better = points[(points > reference).all(1)].astype(np.float64)
    if not len(better):
        return 0.0
    if points.shape[1] == 1:
        return float(np.max(better) - reference[0])
    levels = np.unique(better[:, -1])
    heights = np.diff(np.concatenate([reference[-1:].astype(np.float64), levels]))
    slices = (hypervolume(better[better[:, -1] >= level, :-1], reference[:-1]) for level in levels)
    return float(sum(height * area for height, area in zip(heights, slices, strict=True)))


def on_front(points: Float[np.ndarray, "n o"]) -> Bool[np.ndarray, " n"]:
    """Points that no other one is as good as in every objective and better than in one."""
    one, other = points[:, None], points[None]
    above = np.all(other >= one, axis=-1) & np.any(other > one, axis=-1)
    return np.asarray(~np.any(above, axis=1))
