"""A server that serves the policies of a run for real: it reads the directory it is given, and samples by the seed."""

import math
import threading
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from made_models import ONE
from made_server import Asked, Given, json_of

from jaxalign.models.pretrained import Pretrained
from jaxalign.rollouts.contract import Task
from jaxalign.rollouts.lockstep import Lockstep
from jaxalign.rollouts.samplers import Temperature


class PolicyServer:
    """Completions by the model in the directory that the file `current` names, as a reload command would tell.

    `shape` is how a reply tells its tokens: "ids" as vLLM does, "listed" as llama.cpp, "text" as servers that tell
    none; `spoiled` changes a choice before it is sent.
    """

    def __init__(self, current: Path, shape: str = "ids", spoiled: Callable[[dict], None] = lambda choice: None):
        self.current, self.shape, self.spoiled = current, shape, spoiled
        self.answered, self.limit, self.lock = 0, math.inf, threading.Lock()
        self._opened: dict = {}

    def __call__(self, asked: Asked) -> Given:
        if asked.path.endswith("/models"):
            return json_of({"object": "list", "data": [{"id": "base"}]})
        with self.lock:
            if self.answered >= self.limit:
                return json_of({"error": "out of memory"}, 500)
            self.answered += 1
            return json_of(self.completion(asked.body))

    def completion(self, body: dict) -> dict:
        model, params, drawers = self.opened(self.current.read_text())
        task = Task(1, body["max_tokens"], Temperature(body["temperature"]), model.chat.stop)
        draw = drawers.setdefault(task, Lockstep().open(task, model, ONE, None, 1))
        (drawn,) = draw(params, [body["prompt"]], np.array([0]), jax.random.key(body["seed"]))
        ids = drawn.tokens[0, 0, : drawn.lengths[0, 0]].tolist()
        logps = drawn.logps[0, 0, : len(ids)].astype(float).tolist()
        texts = [model.chat.decode([id]) for id in ids]
        choice = {"index": 0, "text": model.chat.decode(ids), "finish_reason": "length"}
        if drawn.finished[0, 0]:
            choice["finish_reason"] = "stop"
        if self.shape == "listed":
            rows = zip(ids, texts, logps, strict=True)
            choice["logprobs"] = {"content": [{"id": i, "token": text, "logprob": logp} for i, text, logp in rows]}
        else:
            choice["logprobs"] = {"tokens": texts, "token_logprobs": logps, "top_logprobs": None}
        if self.shape == "ids":
            choice |= {"token_ids": ids, "prompt_token_ids": body["prompt"]}
        self.spoiled(choice)
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}}

    def opened(self, directory: str) -> tuple:
        if directory not in self._opened:
            model = Pretrained(directory).open()
            self._opened[directory] = (model, model.load(), {})
        return self._opened[directory]
