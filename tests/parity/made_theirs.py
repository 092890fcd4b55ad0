"""What torch and transformers compute, as arrays."""

from typing import Any

import numpy as np
import torch


def theirs(model: Any, ids: list[list[int]], **inputs: Any) -> np.ndarray:
    """Log-probs (nats) of all tokens but the first, [b s - 1]."""
    tokens = torch.tensor(ids)
    with torch.no_grad():
        scores = torch.log_softmax(model(tokens, **inputs).logits[:, :-1].float(), -1)
    return scores.gather(-1, tokens[:, 1:, None])[..., 0].numpy()
