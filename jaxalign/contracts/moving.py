"""References that move while a fit goes on, unlike those that stay what they were when it began."""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Int

from jaxalign.types import Params


@runtime_checkable
class Moving(Protocol):
    """A reference whose live roles are part of the training state, in fp32."""

    def moved(self, step: Int[Array, ""], reference: Params, policy: Params) -> Params:
        """What is trained of the reference after `step` optimizer steps of the fit, of which it was `reference` before
        the last and the policy is `policy` now. Traced."""
        ...
