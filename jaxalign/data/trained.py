"""Groups as a fit of a loss has them: with what it reads beside their answers."""

from jaxalign.contracts.extras import extras_of
from jaxalign.data.edits import with_edits
from jaxalign.data.groups import TrainingGroups
from jaxalign.data.strays import Strayed


def as_trained(loss: object, groups: TrainingGroups, beside: TrainingGroups | None = None) -> TrainingGroups:
    """The groups that a fit of `loss` has rows of: strayed, if it reads strays, and with what is edited in them, if it
    reads that. Groups that are left out of it have strays from those `beside` them where they are all of one prompt."""
    return with_edits(loss, Strayed(groups, beside) if "stray" in extras_of(loss) else groups)
