"""A small model directory as Hugging Face keeps it, and what differs from it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from jaxalign.exchange.export import export
from jaxalign.models.model import Model
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama

PLAIN = RandomLlama(tied=False, layers=1, context=64).open()
ROLES = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HI = [{"role": "user", "content": "Hi"}]
EOT = "<|eot|>"
FLAGS = {"special": True, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False}


def directory(path: pathlib.Path, rows: int = 259) -> pathlib.Path:
    """A Llama of one layer with so many rows, in fp32, whose template is ChatML over bytes."""
    export(PLAIN, PLAIN.load(), path)
    change(path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", chat_template=CHATML, **ROLES)
    if rows != 259:
        change(path / "config.json", vocab_size=rows)
        tables = ("model.embed_tokens.weight", "lm_head.weight")
        weights(path, lambda found: {k: grown(v, rows) if k in tables else v for k, v in found.items()})
    return path


def grown(table: np.ndarray, rows: int) -> np.ndarray:
    """The table with so many rows, the new ones the average of the others."""
    return np.concatenate([table, np.broadcast_to(table.mean(0), (rows - len(table), table.shape[1]))])


def change(file: pathlib.Path, **fields: Any) -> None:
    """Writes fields of a JSON file; None takes one away."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = {name: value for name, value in {**found, **fields}.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")


def weights(path: pathlib.Path, changed: Any) -> None:
    """Writes other tensors in the place of those in the directory."""
    save_file(changed(load_file(path / "model.safetensors")), path / "model.safetensors", {"format": "pt"})


def opened(path: pathlib.Path) -> Model:
    return Pretrained(str(path)).open()


def token(text: str, **flags: bool) -> Mapping[str, Any]:
    """As added_tokens_decoder writes it."""
    return {"content": text, **FLAGS, **flags}


def spelled(text: str, ids: Mapping[str, int]) -> list[int]:
    """The ids of a text over bytes, special tokens by their texts."""
    found: list[int] = []
    while text:
        name = next((name for name in ids if text.startswith(name)), None)
        found += [ids[name]] if name else [3 + byte for byte in text[0].encode()]
        text = text.removeprefix(name or text[0])
    return found
