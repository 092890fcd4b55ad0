"""A question and its answers, and a panel to judge them."""

from jaxalign.oracles.annotators import Brevity, Completeness, Coverage
from jaxalign.oracles.panel import Weighted

QUESTION = "Why does bread rise in the oven, and what does the yeast do while the dough is warm?"
ANSWER = (
    "Yeast eats sugar in the warm dough and breathes out gas. The gas is trapped in small bubbles, and the heat of the "
    "oven makes them grow, so the bread rises."
)
OTHERS = (
    "The yeast makes gas bubbles that lift the dough.",
    "Bread rises because bread rises because bread rises because bread rises and that is why bread rises.",
    "When the dough is warm, yeast turns sugar into carbon dioxide, and in the oven the gas expands until the crust "
    "sets and then",
    "Heat.",
    "",
)
MEMBERS = (
    Weighted(Brevity(), 1.0, 0.1),
    Weighted(Coverage(), 1.0, 0.05),
    Weighted(Completeness(), 1.0, 0.1),
)
"""Short, to the point and finished: each can be had without the others, all three only by answering."""
