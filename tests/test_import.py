"""Import and export: what goes in comes out, also after interruptions and on many devices; damage is named."""

import json
import pathlib
import shutil
import struct
import subprocess
import sys
import time

import jax
import ml_dtypes
import numpy as np
import pytest
from etils import epath
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from made_gguf import write_gguf
from made_models import mesh, shardings
from safetensors.numpy import save_file

from jaxalign.__main__ import main
from jaxalign.errors import ModelError
from jaxalign.exchange.export import documents as export_documents
from jaxalign.exchange.export import export
from jaxalign.exchange.importing import import_model, parameter
from jaxalign.formats import native, safetensors_stream, stacking, weights
from jaxalign.formats.huggingface import Directory
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama, byte_chat
from jaxalign.models.tabular import TabularPolicy

MODEL = RandomLlama(tied=False, layers=3).open()
PARAMS = jax.tree.map(np.asarray, MODEL.load())
UP, EMBED = "blocks.mlp.up", "embed"


def assert_identical(first, second):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), first, second)


def tensors_of(directory: pathlib.Path) -> dict[str, bytes]:
    """The bytes of every tensor of a Hugging Face directory."""
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        file = safetensors_stream.SafetensorsFile(path)
        content = path.read_bytes()
        ends = sorted([entry.start for entry in file.entries.values()] + [len(content)])
        for name, entry in file.entries.items():
            found[name] = entry.kind.encode() + content[entry.start : ends[ends.index(entry.start) + 1]]
    return found


@pytest.fixture(scope="module")
def hf(tmp_path_factory) -> pathlib.Path:
    """A directory of several bfloat16 shards."""
    path = tmp_path_factory.mktemp("hf") / "model"
    export(MODEL, PARAMS, path, "bfloat16", shard_bytes=20_000)
    return path


@pytest.fixture(scope="module")
def imported(hf, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("native") / "model"
    assert import_model(Pretrained(str(hf)).open(), path, "bfloat16")
    return path


@pytest.fixture
def directory(imported, tmp_path) -> pathlib.Path:
    return shutil.copytree(imported, tmp_path / "model")


# --------------------------------------------------------------------------------------------------------------
# Round trips


def test_what_goes_in_comes_out(hf, tmp_path, capsys):
    assert main(["import", str(hf), str(tmp_path / "native"), "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out == f"{hf} is in {tmp_path / 'native'} (bfloat16)\n"
    assert main(["export", str(tmp_path / "native"), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert tensors_of(tmp_path / "out") == tensors_of(hf)
    assert len(tensors_of(hf)) == 3 + 3 * 9
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "native" / name).read_bytes() == (hf / name).read_bytes()
    assert not (tmp_path / "native" / "records").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_native_directory_is_a_model(hf, tmp_path, dtype):
    """Every bfloat16 value is a float32 value, and rounded to float16 as NumPy rounds it."""
    source = Pretrained(str(hf)).open()
    import_model(source, tmp_path / "native", dtype)
    found = Pretrained(str(tmp_path / "native"), compute_dtype="bfloat16").open()
    assert found.chat.fingerprints == source.chat.fingerprints
    assert found.config.compute_dtype == "bfloat16"
    params = found.load()
    assert_identical(params, jax.tree.map(lambda a: np.asarray(a).astype(native.DTYPES[dtype]), source.load()))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    assert native.read_manifest(epath.Path(tmp_path / "native"))[1][UP].dtype == dtype


def test_policies_of_memory_and_of_files_are_exported_alike(imported, hf, tmp_path):
    model = Pretrained(str(imported)).open()
    export(model, model.load(), tmp_path / "out", "bfloat16")
    assert tensors_of(tmp_path / "out") == tensors_of(hf)


@pytest.mark.parametrize(("name", "small"), [("2x2x2", 0), ("2x2x2", stacking.SMALL), ("1x8x1", stacking.SMALL)])
def test_many_devices_read_what_one_reads(hf, imported, name, small):
    """From files of both kinds, shards put together on the host (`small`) and on the devices."""
    for source in (hf, imported):
        model = Pretrained(str(source)).open()
        placed = shardings(model, mesh(name))
        params = weights.load(model.read.reader, model.read.tensors, model.shapes, find(placed), small)
        assert_identical(params, PARAMS_BF16)
        assert jax.tree.map(lambda leaf: leaf.sharding, params) == placed


PARAMS_BF16 = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), PARAMS)


def find(tree):
    def place(path):
        node = tree
        for step in path:
            node = node[step]
        return node

    return place


def test_a_device_asks_for_its_slice_only(imported):
    """Of `up` [l d f] over fsdp = 2 and tensor = 2, each layer is read in four quarters, once for both replicas."""
    model = Pretrained(str(imported)).open()
    reader = Spy(model.read.reader)
    weights.load(reader, model.read.tensors, model.shapes, find(shardings(model, mesh("2x2x2"))))
    read = [(at, [(s.start, s.stop) for s in index]) for path, at, index in reader.asked if path[-1] == "up"]
    quarters = [[(a, a + 16), (b, b + 32)] for a in (0, 16) for b in (0, 32)]
    assert sorted(read) == [((layer,), quarter) for layer in range(3) for quarter in quarters]


def test_leading_axes_may_be_split_too():
    """As experts are: each device gets its own, and what no device keeps is not fetched."""
    on = mesh("2x2x2")
    values = np.arange(4 * 6 * 5, dtype=np.float32).reshape(4, 6, 5)
    sharding = NamedSharding(on, PartitionSpec("data", "fsdp"))
    opened = []

    def part(at):
        opened.append(at)
        return values[at].__getitem__

    found = stacking.stack(values.shape, 2, part, sharding, small=0)
    np.testing.assert_array_equal(found, values)
    assert found.sharding == sharding
    assert opened == [(layer, expert) for layer in range(4) for expert in range(6)]
    assert all(shard.data.shape == (2, 3, 5) for shard in found.addressable_shards)


def test_parameters_of_experts(tmp_path):
    """Two leading axes: a file tensor for each layer and expert, one parameter here."""
    tensor = weights.Tensor(("blocks", "experts"), "layers.{}.experts.{}.weight", None, 1)
    values = np.random.default_rng(0).standard_normal((2, 3, 8, 4), np.float32)
    shapes = {"blocks": {"experts": jax.ShapeDtypeStruct(values.shape, np.float32)}}
    path = epath.Path(tmp_path / "native")
    (path / native.RECORDS).mkdir(parents=True)
    record = parameter(Experts(values), tensor, shapes, path, "float32")
    native.write_manifest(path, {}, {native.key(tensor): record})
    assert len(record.sha256) == 6
    reader = native.Native(path, [tensor])
    weights.check(reader, [tensor], shapes)
    assert_identical(weights.load(reader, [tensor], shapes, lambda path: None), {"blocks": {"experts": values}})
    np.testing.assert_array_equal(reader.read("layers.1.experts.2.weight", tensor), values[1, 2].T)


class Experts:
    """A reader of one matrix [out, in] for each layer and expert."""

    def __init__(self, values):
        self.values = values

    def name(self, tensor):
        return tensor.hf

    def shapes(self):
        return {f"layers.{i}.experts.{j}.weight": (4, 8) for i in range(2) for j in range(3)}

    def where(self, name):
        return "here"

    def read(self, name, tensor):
        return self.values[tuple(int(word) for word in name.split(".") if word.isdecimal())].T

    def files(self):
        return {}


class Spy:
    """A reader that remembers what was asked of it."""

    def __init__(self, reader):
        self.reader, self.asked = reader, []
        self.name, self.shapes, self.where, self.read = reader.name, reader.shapes, reader.where, reader.read
        self.files = reader.files

    def slice(self, tensor, at, index):
        self.asked.append((tensor.path, at, index))
        return self.reader.slice(tensor, at, index)


def test_gguf_files_go_both_ways(tmp_path, capsys):
    write_gguf(tmp_path / "m.gguf")
    assert main(["import", str(tmp_path / "m.gguf"), str(tmp_path / "native")]) == 0
    source, found = (Pretrained(str(tmp_path / name)).open() for name in ("m.gguf", "native"))
    assert found.config == source.config
    messages = [{"role": "user", "content": "qqq Hi"}]
    assert found.chat.encode(messages) == source.chat.encode(messages)
    assert_identical(found.load(), source.load())
    assert main(["export", str(tmp_path / "m.gguf"), str(tmp_path / "out")]) == 0
    assert_identical(Pretrained(str(tmp_path / "out")).open().load(), source.load())
    assert main(["export", str(tmp_path / "m.gguf"), str(tmp_path / "x"), "--policy", "3"]) == 2
    assert "is a model, not a run" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------------
# Interruptions


class Stopped(Exception):
    pass


def test_an_interrupted_import_goes_on(hf, imported, tmp_path, capsys):
    source, path = Pretrained(str(hf)).open(), tmp_path / "native"
    done = []

    def report(name):
        done.append(name)
        if len(done) == 5:
            raise Stopped

    with pytest.raises(Stopped):
        import_model(source, path, "bfloat16", report)
    assert main(["export", str(path), str(tmp_path / "out")]) == ModelError.exit_code
    assert "this import was interrupted" in capsys.readouterr().err
    with pytest.raises(ModelError, match="this import was interrupted"):
        Pretrained(str(path)).open()
    with pytest.raises(ModelError, match="holds an import of other files, or in another dtype"):
        import_model(source, path, "float32")
    kept = stamps(path, done[1:])
    broken = next(
        file
        for file in sorted((path / "parameters" / done[0]).rglob("*"))
        if file.name != "zarr.json" and file.is_file()
    )
    broken.write_bytes(b"\0" + broken.read_bytes()[1:])
    assert import_model(source, path, "bfloat16")
    assert stamps(path, done[1:]) == kept
    assert contents(path) == contents(imported)


def test_a_finished_import_is_recognised(hf, directory, capsys):
    before = contents(directory)
    (directory / "records").mkdir()  # as if it had been stopped after its last word
    (directory / "import.json").write_text("{}")
    assert main(["import", str(hf), str(directory), "--dtype", "bfloat16"]) == 0
    assert "it was there already" in capsys.readouterr().out
    assert contents(directory) == before
    assert main(["import", str(hf), str(directory)]) == ModelError.exit_code
    assert "in another dtype" in capsys.readouterr().err


def stamps(path, names):
    return [file.stat().st_mtime_ns for name in names for file in sorted((path / "parameters" / name).rglob("*"))]


def contents(path: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


# --------------------------------------------------------------------------------------------------------------
# Damage


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_flipped_byte_of_a_native_directory_is_named(imported, tmp_path_factory, data):
    """But in zarr.json, where spaces and names of axes do not matter, and in the copied documents."""
    path = tmp_path_factory.mktemp("flip") / "model"
    shutil.copytree(imported, path)
    files = [file for file in sorted(path.rglob("*")) if file.name == "manifest.json" or "/c/" in str(file)]
    file = data.draw(st.sampled_from([file for file in files if file.is_file()]))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        Pretrained(str(path)).open().load()
    parameter = "manifest.json" if file.name == "manifest.json" else file.relative_to(path).parts[1]
    assert parameter in str(caught.value)
    shutil.rmtree(path)


def test_lost_and_swapped_chunks_are_named(directory):
    up = directory / "parameters" / UP / "c"
    first, second = (next(file for file in (up / layer).rglob("*") if file.is_file()) for layer in "01")
    first_content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    with pytest.raises(ModelError, match=r"blocks\.mlp\.up.*SHA-256 of part \[0\]"):
        Pretrained(str(directory)).open().load()
    first.write_bytes(first_content)
    second.unlink()
    with pytest.raises(ModelError, match=r"parameter 'blocks\.mlp\.up' is damaged"):
        Pretrained(str(directory)).open().load()


def test_parameters_must_fit_the_config(directory):
    config = directory / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_hidden_layers": 2}))
    with pytest.raises(ModelError, match=r"manifest\.json: unknown tensor 'model\.layers\.2"):
        Pretrained(str(directory)).open()


def test_what_cannot_be_imported(hf, imported, tmp_path):
    with pytest.raises(ModelError, match="only models in files"):
        import_model(TabularPolicy().open(), tmp_path / "a", "float32")
    with pytest.raises(ModelError, match="native directory already"):
        import_model(Pretrained(str(imported)).open(), tmp_path / "a", "float32")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ModelError, match="not an empty directory"):
        import_model(Pretrained(str(hf)).open(), tmp_path / "full", "float32")
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot be written"):
        import_model(Pretrained(str(hf)).open(), tmp_path / "file" / "model", "float32")


def test_values_that_do_not_fit_the_dtype(tmp_path):
    params = {**PARAMS, "embed": PARAMS["embed"] * np.float32(1e7)}
    export(MODEL, params, tmp_path / "hf")
    with pytest.raises(ModelError, match=r"'model\.embed_tokens\.weight' has values that are not finite in float16"):
        import_model(Pretrained(str(tmp_path / "hf")).open(), tmp_path / "native", "float16")


# --------------------------------------------------------------------------------------------------------------
# Size

PROGRAM = """
import resource, sys
from jaxalign.__main__ import main
assert main(sys.argv[1:]) == 0
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
LIMIT = 6 * 2**30
"""Bytes; the parameters are 16 GB."""


@pytest.mark.slow
def test_an_8b_model_passes_through_little_memory(tmp_path):
    """Llama 3 8B in bfloat16: zeros that take no room on the disk, but for the last layer's q. Needs 33 GB of disk."""
    shape = RandomLlama(32, 4096, 14336, heads=32, kv_heads=8, head_dim=128, tied=False, context=8192)
    config = shape.config(128256)
    tensors, shapes = config.tensors(), nnx.to_pure_dict(nnx.split(nnx.eval_shape(config.module))[1])
    (source := tmp_path / "hf").mkdir()
    for name, content in export_documents(config, byte_chat(), "bfloat16").items():
        (source / name).write_bytes(content)
    listed = [entry for tensor in tensors for entry in weights.entries(tensor, tensor.hf, shapes)]
    marked = "model.layers.31.self_attn.q_proj.weight"
    values = np.random.default_rng(0).standard_normal((4096, 4096), np.float32).astype(ml_dtypes.bfloat16)
    sparse(source, listed, {marked: values})
    figures = {}
    for verb, start, end in (("import", "hf", "native"), ("export", "native", "out")):
        began = time.perf_counter()
        arguments = [verb, str(tmp_path / start), str(tmp_path / end), "--dtype", "bfloat16"]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True)
        figures[verb] = (1024 * int(done.stdout.split()[-1]), time.perf_counter() - began)
    print({verb: f"{peak / 2**30:.2f} GiB, {seconds:.0f} s" for verb, (peak, seconds) in figures.items()})
    assert all(peak < LIMIT for peak, _ in figures.values())
    out = Directory(tmp_path / "out")
    np.testing.assert_array_equal(out.read(marked, tensors[5]), values.astype(np.float32))
    shutil.rmtree(tmp_path / "native")
    shutil.rmtree(tmp_path / "out")


def sparse(directory: pathlib.Path, listed, filled: dict[str, np.ndarray]) -> None:
    """One shard of bfloat16 zeros for each tensor, with holes for them, and the index."""
    files = {}
    for number, (name, shape) in enumerate(listed):
        files[name] = f"part-{number}.safetensors"
        if name in filled:
            save_file({name: filled[name]}, directory / files[name])
            continue
        size = 2 * int(np.prod(shape))
        header = json.dumps({name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, size]}}).encode()
        with open(directory / files[name], "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + size)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
