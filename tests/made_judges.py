"""Directories of small random sequence classifiers, as Hugging Face keeps them, and devices to open judges on."""

import json
import pathlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from jaxalign.contracts.scope import Site
from jaxalign.exchange.export import export
from jaxalign.mesh.sharding import MeshShape
from jaxalign.models.heads import outputs
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.types import Prompt


def site(shape: MeshShape, rows: int = 4) -> Site:
    """The first devices here, to open judges on."""
    return Site(shape.build(), shape.rules, None, rows)


SITE = site(MeshShape(fsdp=1))
"""One device."""


def alone(path: pathlib.Path, prompt: Prompt, texts: Sequence[str]) -> np.ndarray:
    """Outputs [m o] of a judge for answers to a prompt, each conversation read by itself with a plain causal mask."""
    model = Pretrained(str(path)).open()
    params = model.load()
    found = []
    for text in texts:
        whole = model.chat.render([*prompt.messages, {"role": "assistant", "content": text}], answering=False)
        ids = jnp.asarray(model.chat.tokenizer.encode(whole, add_special_tokens=False).ids, jnp.int32)[None]
        position, mask = (
            jnp.arange(ids.shape[1], dtype=jnp.int32)[None],
            jnp.tril(jnp.ones((1, *2 * ids.shape[1:]), bool)),
        )
        found.append(outputs(model.head(params), model.hidden(params, ids, position, mask)[0, -1]))
    return np.stack(found)


def judge_directory(home: pathlib.Path, outputs: int, seed: int = 0) -> pathlib.Path:
    """A LlamaForSequenceClassification with `outputs` outputs at `home`."""
    model = RandomLlama(tied=False, context=512, seed=seed).open()
    export(model, model.load(), home)
    config = json.loads((home / "config.json").read_text())
    labels = {str(label): f"LABEL_{label}" for label in range(outputs)}
    config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": labels}
    (home / "config.json").write_text(json.dumps(config))
    tensors = load_file(home / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors["score.weight"] = np.random.default_rng(seed).standard_normal((outputs, 32), np.float32)
    save_file(tensors, home / "model.safetensors", metadata={"format": "pt"})
    return home
