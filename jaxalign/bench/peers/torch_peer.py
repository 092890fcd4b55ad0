"""torch + transformers as users would write it, on the weights of one of our models: what benchmarks compare with."""

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxalign.exchange.export import export
from jaxalign.losses.inpo import INPO
from jaxalign.models.model import Model
from jaxalign.training.optim import AdamW
from jaxalign.types import Params, Rollouts


class TorchPeer:
    """A transformers model and its AdamW, fp32, on the CPU."""

    def __init__(self, directory: Path):
        import torch
        from transformers import AutoModelForCausalLM

        self._torch = torch
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
        self._optimizer: Any = None

    @classmethod
    def of(cls, model: Model, params: Params) -> "TorchPeer | None":
        """The peer with these weights; None where torch or transformers is not installed."""
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            return None
        with tempfile.TemporaryDirectory() as folder:
            export(model, params, Path(folder) / "model")
            return cls(Path(folder) / "model")

    @staticmethod
    def absent() -> dict[str, Any]:
        """The row that stands for the peer where it is not installed."""
        return {"implementation": "torch + transformers: not installed (pip install 'jaxalign[parity]')"}

    def sample(self, prompts: Int[np.ndarray, "b p"], samples: int, limit: int) -> None:
        """`samples` responses of exactly `limit` tokens to each prompt, temperature 1."""
        torch = self._torch
        with torch.inference_mode():
            self._model.eval().generate(
                torch.from_numpy(prompts.astype(np.int64)),
                attention_mask=torch.ones(prompts.shape, dtype=torch.int64),
                do_sample=True,
                top_k=0,
                num_return_sequences=samples,
                max_new_tokens=limit,
                min_new_tokens=limit,
                pad_token_id=0,
            )

    def inpo_step(self, rollouts: Rollouts, loss: INPO, optimizer: AdamW) -> float:
        """Loss of one step on full-length pairs, chosen and rejected as rows of their own; references are 0."""
        torch = self._torch
        if self._optimizer is None:
            rate = float(optimizer.learning_rate.schedule(1)(0))
            self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=rate, weight_decay=0.0)
        prompt, response = rollouts.prompt_tokens.shape[1], rollouts.tokens.shape[2]
        rows = np.concatenate([np.repeat(rollouts.prompt_tokens, 2, 0), rollouts.tokens.reshape(-1, response)], 1)
        tokens = torch.from_numpy(rows.astype(np.int64))
        logits = self._model.train()(tokens).logits[:, prompt - 1 : -1]
        logps = logits.log_softmax(-1).gather(-1, tokens[:, prompt:, None])[..., 0].sum(-1).reshape(-1, 2)
        value = ((logps[:, 0] - logps[:, 1] - 1 / (2 * loss.eta)) ** 2).mean()
        value.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), optimizer.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(value)
