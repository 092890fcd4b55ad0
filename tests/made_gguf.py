"""GGUF files written as llama.cpp's converter writes them: vocabularies of real tokenizers, and a small whole model."""

import json
import pathlib
from typing import Any

import gguf
import jax
import numpy as np

from jaxalign.formats.gguf import GgufFile
from jaxalign.models.random_llama import RandomLlama

CONTROL, NORMAL, UNKNOWN, BYTE = 3, 1, 2, 6
"""Kinds of tokens, as GGUF numbers them."""

CHATS = json.loads((pathlib.Path(__file__).parent / "goldens" / "chats.json").read_text(encoding="utf-8"))
MODELS = {tied: RandomLlama(tied=tied).open() for tied in (False, True)}
PARAMS = {tied: jax.tree.map(np.asarray, model.load()) for tied, model in MODELS.items()}

KINDS = {
    "token_embd.weight": gguf.GGMLQuantizationType.Q8_0,
    "blk.0.ffn_up.weight": gguf.GGMLQuantizationType.Q4_1,
    "blk.1.ffn_up.weight": gguf.GGMLQuantizationType.F16,
    "blk.1.ffn_down.weight": gguf.GGMLQuantizationType.BF16,
}
"""What some tensors are stored as; all others in fp32."""


def vocabulary_fields(family: str) -> dict:
    """What llama.cpp's converter writes of a family's tokenizer."""
    made = CHATS[family]
    model = made["tokenizer"]["model"]
    special = {entry["content"] for entry in made["tokenizer"]["added_tokens"]}
    tokens = sorted(model["vocab"], key=lambda token: model["vocab"][token])
    merges = [tuple(pair) for pair in model["merges"]]
    kinds = [
        UNKNOWN
        if token == "<unk>"
        else CONTROL
        if token in special
        else BYTE
        if token.startswith("<0x") and not isinstance(made["kind"], str)
        else NORMAL
        for token in tokens
    ]
    fields = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.eos_token_id": model["vocab"][made["specials"]["eos_token"]],
    }
    if isinstance(made["kind"], str):
        merged = [f"{left} {right}" for left, right in merges]
        named = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": made["kind"], "tokenizer.ggml.merges": merged}
        return {**fields, **named}
    rank = {left + right: number for number, (left, right) in reversed(list(enumerate(merges)))}
    scores = [-float(rank.get(token, len(merges))) for token in tokens]
    prefix = {"tokenizer.ggml.add_space_prefix": made["kind"]}
    return {**fields, "tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": scores, **prefix}


def add_fields(writer: gguf.GGUFWriter, fields: dict[str, Any]) -> None:
    """Metadata by the types of its values; None leaves a field out."""
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for name, value in fields.items():
        if value is not None:
            kinds.get(type(value), writer.add_array)(name, value)


def write_vocabulary(path: pathlib.Path, fields: dict) -> GgufFile:
    writer = gguf.GGUFWriter(path, "llama")
    add_fields(writer, fields)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return GgufFile(path)


def model_fields(model) -> dict:
    config, chat = model.config, model.chat
    vocab = chat.tokenizer.get_vocab()
    tokens = [*sorted(vocab, key=lambda token: vocab[token])[:-1], "qq"]
    return {
        "llama.block_count": config.layers,
        "llama.context_length": config.context,
        "llama.embedding_length": config.width,
        "llama.feed_forward_length": config.mlp,
        "llama.attention.head_count": config.heads,
        "llama.attention.head_count_kv": config.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
        "llama.rope.freq_base": config.rope_base,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": ["q q"],
        "tokenizer.ggml.token_type": [3 if i < 3 else 1 for i in range(chat.vocab)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": chat.template,
    }


def interleaved(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key rows: halves to neighbouring pairs."""
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: pathlib.Path, arch: str = "llama", drop: str = "none", **changes) -> dict[str, np.ndarray]:
    """The untied model as a GGUF file with metadata changed and a tensor dropped; returns what the file holds."""
    model, params = MODELS[False], PARAMS[False]
    writer = gguf.GGUFWriter(path, arch)
    add_fields(writer, {**model_fields(model), **changes})
    held = {}
    for tensor in model.config.tensors():
        array = params
        for step in tensor.path:
            array = array[step]
        for layer, part in enumerate(array if tensor.stacked else [array]):
            name = tensor.gguf.format(layer)
            kind = KINDS.get(name, gguf.GGMLQuantizationType.F32)
            rows = tensor.to_file(part)
            stored = gguf.quantize(interleaved(rows, 8) if tensor.pairs else rows, kind)
            held[tensor.hf.format(layer)] = gguf.dequantize(gguf.quantize(rows, kind), kind)
            if name != drop:
                writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held
