"""Export of runs, without their devices and their prompts: the bytes that their own process would write."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from made_classifier import open_classifier
from made_exports import ADAPTED, BASE, files, moved, run_of
from made_models import mesh, nudged, shardings
from safetensors.numpy import load_file

from jaxalign.__main__ import main
from jaxalign.errors import ConfigError, ModelError
from jaxalign.exchange import committed, peft
from jaxalign.exchange.export import export
from jaxalign.models.headed import Headed
from jaxalign.models.lora import LoRA
from jaxalign.models.low_rank import frozen, join, trained
from jaxalign.models.model import Source
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.reopen import reopen
from jaxalign.storage.rundir import read_run

# --------------------------------------------------------------------------------------------------------------
# A run trained on eight devices

CONFIG = '''"""The tiny run with prompts from files and an annotator of its own, which no other process knows.

Adam would amplify rounding: it divides by small second moments.
"""

import dataclasses

import numpy as np

from jaxalign.config.load import load
from jaxalign.data.prompts import JsonlPrompts
from jaxalign.oracles.panel import Panel, Weighted
from jaxalign.training.optim import GradientDescent

tiny = load({tiny!r})


@dataclasses.dataclass(frozen=True)
class Longest:
    """More is better."""

    name = "longest"

    def __call__(self, prompt: object, texts: tuple[str, ...]) -> np.ndarray:
        return np.array([len(text) for text in texts], np.float32)


experiment = dataclasses.replace(
    tiny,
    feedback=dataclasses.replace(
        tiny.feedback, prompts=JsonlPrompts({prompts!r}), oracle=Panel((Weighted(Longest()),))
    ),
    optimizer=GradientDescent(0.01),
    evaluation=dataclasses.replace(tiny.evaluation, prompts=JsonlPrompts({prompts!r})),
)
'''
OPTIONS = (
    *("--iterations", "1", "--swap_every", "none", "--feedback.prompts_per_iteration", "8"),
    *("--feedback.rollout.samples", "3", "--feedback.rollout.max_tokens", "8", "--placement.rollout_rows", "24"),
    *("--evaluation.rollout.max_tokens", "8", "--fit.batch_size", "8"),
)
MESHES = {
    "eight": tuple(word for axis in ("data", "fsdp", "tensor") for word in (f"--placement.mesh.{axis}", "2")),
    "one": ("--placement.mesh.fsdp", "1"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, pathlib.Path]:
    """One run of eight devices and one of a single device; the prompts and the config file of both are gone."""
    home = tmp_path_factory.mktemp("runs")
    prompts = home / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"What is {n} and {n}?"}) + "\n" for n in range(8)))
    config = home / "own.py"
    tiny = pathlib.Path(__file__).parents[1] / "configs" / "tiny_lm.py"
    config.write_text(CONFIG.format(tiny=str(tiny), prompts=str(prompts)))
    for name, options in MESHES.items():
        assert not main(["train", str(config), "--workdir", str(home / name), *OPTIONS, *options])
    prompts.unlink()
    config.unlink()
    for name in MESHES:
        shutil.rmtree(home / name / "datasets")
    return {name: home / name for name in MESHES}


@pytest.mark.slow
def test_a_run_of_eight_devices_is_exported_by_one(runs, tmp_path):
    """In another process, to the bytes that its arrays give on the mesh they were trained on."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    command = [sys.executable, "-m", "jaxalign", "export", str(runs["eight"]), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"policy 1 of {runs['eight']} is in {tmp_path / 'out'} (float32)\n"
    model = RandomLlama().open()
    there = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        model.abstract(),
        shardings(model, mesh("2x2x2")),
    )
    export(model, read_run(runs["eight"]).policy(1).load(there), tmp_path / "own")
    assert files(tmp_path / "out") == files(tmp_path / "own")


@pytest.mark.slow
def test_it_is_the_run_of_one_device(runs, tmp_path):
    """The base to the byte, what was trained to rounding."""
    for name, run in runs.items():
        assert not main(["export", str(run), str(tmp_path / name / "last")])
        assert not main(["export", str(run), str(tmp_path / name / "base"), "--policy", "base"])
    assert files(tmp_path / "eight" / "base") == files(tmp_path / "one" / "base")
    ours, theirs, base = (
        load_file(tmp_path / name / "model.safetensors") for name in ("eight/last", "one/last", "one/base")
    )
    assert ours.keys() == theirs.keys() == base.keys()
    for name in ours:
        # Sums in another order, of numbers of size 1: 2e-7 measured, where training moved up to 0.08.
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    assert max(np.abs(theirs[name] - base[name]).max() for name in base) > 1e-2


def test_policies_go_by_number_base_and_last(runs, tmp_path, capsys):
    run = reopen(runs["one"])
    assert [run.policy_number(text) for text in ("base", "last", "0", "1")] == [0, 1, 0, 1]
    for text in ("2", "first", "-1"):
        with pytest.raises(ConfigError, match=r"holds 0, 1 \(0 is the base, or say base or last\)"):
            run.policy_number(text)
    assert main(["export", str(runs["one"]), str(tmp_path / "out"), "--policy", "2"]) == ConfigError.exit_code
    assert "policy '2'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["", "0005", "reports/exported"])
def test_nothing_is_exported_into_the_run(runs, place, capsys):
    before = sorted(runs["one"].rglob("*"))
    assert main(["export", str(runs["one"]), str(runs["one"] / place)]) == ConfigError.exit_code
    assert "is in the run's own directory" in capsys.readouterr().err
    assert sorted(runs["one"].rglob("*")) == before


# --------------------------------------------------------------------------------------------------------------
# The same bytes as from arrays


@pytest.mark.parametrize("on", ["8x1x1", "1x8x1", "2x2x2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_lies_in_a_run_is_exported_as_its_arrays_are(tmp_path, on, dtype):
    model = BASE.open()
    params = moved(model)
    run = run_of(BASE, tmp_path / "run", params, on=on)
    assert not main(["export", str(run), str(tmp_path / "run_out"), "--dtype", dtype])
    export(model, params, tmp_path / "out", dtype)
    assert files(tmp_path / "run_out") == files(tmp_path / "out")


def test_several_shards_are_several_files(tmp_path):
    model = BASE.open()
    run = run_of(BASE, tmp_path / "run", model.load())
    committed.export_policy(model, read_run(run).policy(0), tmp_path / "streamed", shard_bytes=20_000)
    export(model, model.load(), tmp_path / "out", shard_bytes=20_000)
    assert files(tmp_path / "streamed") == files(tmp_path / "out")
    assert len(files(tmp_path / "out")) > 6


@pytest.mark.parametrize("base_dtype", ["float32", "bfloat16", "int8", "nf4"])
@pytest.mark.parametrize("files_of_base", ["drawn", "huggingface", "native"])
def test_an_adapted_policy_is_merged_as_its_arrays_are(tmp_path, base_dtype, files_of_base):
    """The base as its run keeps it, whichever files it comes from; only what is adapted is rounded to its dtype."""
    base: Source = BASE
    if files_of_base != "drawn":
        export(BASE.open(), BASE.open().load(), tmp_path / "huggingface")
        if files_of_base == "native":
            assert not main(["import", str(tmp_path / "huggingface"), str(tmp_path / "native")])
        base = Pretrained(str(tmp_path / files_of_base))
    source = LoRA(base, rank=4, alpha=8.0, base_dtype=base_dtype)
    model = source.open()
    params = moved(model)
    run = run_of(source, tmp_path / "run", model.load(), params)
    for number, policy in enumerate((model.load(), params)):
        assert not main(["export", str(run), str(tmp_path / f"run{number}"), "--policy", str(number)])
        export(model, policy, tmp_path / f"out{number}")
        assert files(tmp_path / f"run{number}") == files(tmp_path / f"out{number}")
    assert files(tmp_path / "run0") != files(tmp_path / "run1")
    export(model, jax.device_put(params, shardings(model, mesh("2x2x2"))), tmp_path / "mesh")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("run1", "mesh"))
    for name in ours:
        # Devices multiply narrower matrices, whose products may be rounded once more or less; values are below 4.
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=4e-7)


@pytest.mark.parametrize(
    "source",
    [
        Headed(BASE, outputs=2),
        Headed(BASE, outputs=2, trunk="frozen", layers=2),
        LoRA(Headed(BASE, outputs=2), rank=4, base_dtype="nf4"),
    ],
    ids=["full", "frozen", "lora"],
)
@pytest.mark.parametrize("files_of_base", ["drawn", "huggingface", "native"])
def test_a_score_model_is_exported_as_its_arrays_are(tmp_path, source, files_of_base):
    """Its head is the run's, what is frozen comes from the files of its base; a classifier's own reader reads both."""
    if files_of_base != "drawn":
        export(BASE.open(), BASE.open().load(), tmp_path / "huggingface")
        if files_of_base == "native":
            assert not main(["import", str(tmp_path / "huggingface"), str(tmp_path / "native")])
        base = Pretrained(str(tmp_path / files_of_base))
        inner = source.base if isinstance(source, LoRA) else source
        headed = dataclasses.replace(inner, base=base)
        source = dataclasses.replace(source, base=headed) if isinstance(source, LoRA) else headed
    model = source.open()
    params = moved(model)
    run = run_of(source, tmp_path / "run", params)
    assert not main(["export", str(run), str(tmp_path / "judge")])
    export(model, params, tmp_path / "out")
    assert files(tmp_path / "judge") == files(tmp_path / "out")
    again = open_classifier(str(tmp_path / "judge"))
    np.testing.assert_array_equal(again.params["score"], params["score"][...])
    assert again.model.config.layers == model.config.layers


@pytest.mark.parametrize("base_dtype", ["float32", "nf4"])
def test_a_difference_is_added_in_rows_as_to_the_whole(tmp_path, monkeypatch, base_dtype):
    source = LoRA(RandomLlama(width=128, mlp=256, heads=8, head_dim=16), rank=8, base_dtype=base_dtype)
    model = source.open()
    run = read_run(run_of(source, tmp_path / "run", moved(model)))
    committed.export_policy(model, run.policy(0), tmp_path / "whole")
    monkeypatch.setattr(committed, "BLOCK", 33 * 4 * 256)
    assert list(committed.blocks(np.empty((128, 256), np.float32)))[1:3] == [slice(32, 64), slice(64, 96)]
    committed.export_policy(model, run.policy(0), tmp_path / "rows")
    assert files(tmp_path / "rows") == files(tmp_path / "whole")


def test_an_adapter_is_exported_as_its_arrays_are(tmp_path):
    model = ADAPTED.open()
    params = moved(model)
    run = run_of(ADAPTED, tmp_path / "run", params)
    assert not main(["export", str(run), str(tmp_path / "adapter"), "--adapter", "--base-name", "org/base"])
    peft.export_policy(model, params, tmp_path / "out", "org/base")
    assert files(tmp_path / "adapter") == files(tmp_path / "out")


def test_an_adapter_of_a_score_model_holds_its_head(tmp_path):
    source = LoRA(Headed(BASE, outputs=2), rank=4)
    model = source.open()
    params = moved(model)
    run = run_of(source, tmp_path / "run", params)
    assert not main(["export", str(run), str(tmp_path / "adapter"), "--adapter", "--base-name", "org/base"])
    found = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    np.testing.assert_array_equal(found["base_model.model.score.weight"], params["score"][...])
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (fields["task_type"], fields["modules_to_save"]) == ("SEQ_CLS", ["score"])


def test_weights_of_several_runs_are_averaged(tmp_path, capsys):
    """Of runs from one start; differences are merged first: it is the mean of products, not a product of means."""
    source = LoRA(Headed(BASE, outputs=2), rank=4)
    model = source.open()
    policies = [join(nudged(trained(whole := model.load()), 0.1, seed), frozen(whole)) for seed in (1, 2, 3)]
    runs = [str(run_of(source, tmp_path / str(k), params)) for k, params in enumerate(policies)]
    more = [word for run in runs[1:] for word in ("--mean-with", run)]
    assert not main(["export", runs[0], str(tmp_path / "mean"), *more])
    for k, params in enumerate(policies):
        export(model, params, tmp_path / f"out{k}")
    found, *each = (load_file(tmp_path / name / "model.safetensors") for name in ("mean", "out0", "out1", "out2"))
    for name in found:
        np.testing.assert_allclose(found[name], np.mean([one[name] for one in each], 0), rtol=1e-6, atol=1e-7)
    other = str(run_of(Headed(BASE, outputs=1), tmp_path / "other", Headed(BASE, outputs=1).open().load()))
    assert main(["export", runs[0], str(tmp_path / "no"), "--mean-with", other]) == ModelError.exit_code
    assert "differ in more than weights" in capsys.readouterr().err
    assert main(["export", runs[0], str(tmp_path / "no"), "--adapter", *more]) == ConfigError.exit_code
    for twice in ([runs[0], *more, "--mean-with", runs[1]], [runs[0], "--mean-with", runs[0] + "/"]):
        assert main(["export", twice[0], str(tmp_path / "no"), *twice[1:]]) == ConfigError.exit_code
        assert "is in the mean already" in capsys.readouterr().err
