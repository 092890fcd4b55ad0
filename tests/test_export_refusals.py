"""What cannot be exported is named, and nothing is left of it."""

import json

import jax
import numpy as np
import pytest
from made_exports import BASE, begun, moved, run_of
from made_runs import write_config

from jaxalign.__main__ import main
from jaxalign.config.resolved import dump
from jaxalign.errors import CheckpointError, ConfigError, ModelError
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import trained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.models.tabular import TabularPolicy


def test_a_run_without_an_adapter_has_none(tmp_path, capsys):
    run = run_of(BASE, tmp_path / "run", BASE.open().load())
    assert main(["export", str(run), str(tmp_path / "out"), "--adapter"]) == ModelError.exit_code
    assert "nothing is adapted" in capsys.readouterr().err


def test_a_table_of_logits_is_no_model_for_others(tmp_path, capsys):
    source = TabularPolicy()
    with begun(source, tmp_path / "run") as run:
        run.policy(0).save(source.open().load(), {})
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == ModelError.exit_code
    assert "has no Hugging Face form" in capsys.readouterr().err


def test_a_config_without_a_model_is_named(tmp_path, capsys):
    with begun(BASE, tmp_path / "run") as run:
        run.policy(0).save(BASE.open().load(), {})
    write_config(tmp_path / "run", "{}")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == ConfigError.exit_code
    assert "config.json: names no model" in capsys.readouterr().err


def test_another_model_than_the_policys_is_named(tmp_path, capsys):
    run = run_of(BASE, tmp_path / "run", BASE.open().load())
    write_config(run, json.dumps({"model": dump(RandomLlama(tied=False, layers=2))}))
    assert main(["export", str(run), str(tmp_path / "out")]) == ConfigError.exit_code
    assert "(num_hidden_layers): 3 at the first launch, 2 now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "options"),
    [(BASE, ()), (LoRA(BASE), ()), (LoRA(BASE), ("--adapter",))],
    ids=["whole", "merged", "adapter"],
)
def test_damage_is_named_and_leaves_nothing(tmp_path, capsys, source, options):
    params = moved(source.open())
    run = run_of(source, tmp_path / "run", params, on="8x1x1")
    (data,) = (run / "initial" / "policy" / "state" / "ocdbt.process_0" / "d").iterdir()
    content = bytearray(data.read_bytes())
    path, values = jax.tree_util.tree_leaves_with_path(trained(params)["blocks"]["mlp"])[0]
    content[content.index(np.asarray(values).tobytes()[:16]) + 5] ^= 64
    data.write_bytes(content)
    assert main(["export", str(run), str(tmp_path / "out"), *options]) == CheckpointError.exit_code
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    assert f"array blocks/mlp/{name} is damaged (its checksum does not fit)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
