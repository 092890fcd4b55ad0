"""Adapters as PEFT keeps them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxalign.errors import ModelError
from jaxalign.exchange.peft import export_adapter

Q, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"
TARGETS = ("q_proj", "down_proj")


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


FACTORS = {Q: (draw((4, 32), 0), draw((32, 4), 1)), DOWN: (draw((4, 64), 2), draw((32, 4), 3))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_layout_is_pefts(tmp_path, dtype):
    export_adapter(FACTORS, 4, 8.0, TARGETS, tmp_path / "adapter", "base/model", dtype)
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert {config[name] for name in ("peft_type", "task_type")} == {"LORA", "CAUSAL_LM"}
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 8.0, list(TARGETS))
    assert config["base_model_name_or_path"] == "base/model"
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sorted(held) == sorted(
        f"base_model.model.{name}.lora_{letter}.weight"
        for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj")
        for letter in "AB"
    )
    found = held["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    np.testing.assert_array_equal(found, FACTORS[DOWN][0].astype(found.dtype))
    assert str(found.dtype) == dtype


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factors": {"model.norm.weight": FACTORS[Q]}}, "'model.norm.weight': not the weight of one of q_proj"),
        ({"factors": {Q: FACTORS[Q][::-1]}}, r"A is \(32, 4\) and B \(4, 32\), which is not rank 4"),
        ({"rank": 8}, "not rank 8"),
        ({"dtype": "int8"}, "known are float32"),
        ({"factors": {Q: (FACTORS[Q][0] * np.float32(1e6), FACTORS[Q][1])}, "dtype": "float16"}, "A has values"),
    ],
)
def test_adapters_that_cannot_be_written(tmp_path, change, words):
    fields = {"factors": FACTORS, "rank": 4, "alpha": 8.0, "targets": TARGETS, "base_name": "b", **change}
    with pytest.raises(ModelError, match=words):
        export_adapter(directory=tmp_path / "adapter", **fields)
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_never_writes_over_anything(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ModelError, match="not an empty directory"):
        export_adapter(FACTORS, 4, 8.0, TARGETS, tmp_path, "b")
    with pytest.raises(ModelError, match="cannot be written"):
        export_adapter(FACTORS, 4, 8.0, TARGETS, tmp_path / "x" / "y", "b")
