"""Weight files damaged anywhere are refused with the file's name, or read as other numbers; nothing else happens."""

import json
import pathlib
import struct

import gguf
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_gguf import vocabulary_fields, write_vocabulary
from safetensors.numpy import load, save

from jaxalign.errors import JaxalignError, ModelError
from jaxalign.exchange.export import export
from jaxalign.formats import safetensors_stream
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import Directory
from jaxalign.formats.safetensors_stream import SafetensorsFile
from jaxalign.formats.weights import Tensor
from jaxalign.models.pretrained import Pretrained
from jaxalign.models.random_llama import RandomLlama
from jaxalign.text import chat, gguf_tokenizer

MODEL = RandomLlama(layers=1).open()
ANY = Tensor(("x",), "x", "x")
ARRAYS = {
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "b": np.ones(5, np.float16),
    "c": np.zeros((0, 2), np.float32),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("hf") / "model"
    export(MODEL, jax.tree.map(np.asarray, MODEL.load()), path, "bfloat16")
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory) -> pathlib.Path:
    """Some tensors and a vocabulary."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kinds = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}
    for name, value in vocabulary_fields("llama2").items():
        kinds.get(type(value), writer.add_array)(name, value)
    for name, kind in (("a", gguf.GGMLQuantizationType.Q8_0), ("b", gguf.GGMLQuantizationType.F32)):
        rows = np.random.default_rng(0).standard_normal((4, 64), np.float32)
        writer.add_tensor(name, gguf.quantize(rows, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def damaged(data, content: bytes) -> bytes:
    """The content with a byte changed, cut short, or with bytes put in."""
    at = data.draw(st.integers(0, len(content) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "number"])):
        case "flip":
            return content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case "insert":
            return content[:at] + data.draw(st.binary(min_size=1, max_size=9)) + content[at:]
    return content[:at] + struct.pack("<Q", data.draw(st.integers(0, 2**64 - 1))) + content[at + 8 :]


# --------------------------------------------------------------------------------------------------------------
# Safetensors


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_safetensors_damaged_anywhere(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(damaged(data, save(ARRAYS)))
    try:
        file = SafetensorsFile(path)
        for name, entry in file.entries.items():
            assert file.read(name).shape == entry.shape
    except ModelError as error:
        assert str(path) in str(error)  # noqa: PT017 (it may also pass)


def test_our_files_are_safetensors(tmp_path):
    """The library reads what we write, we read what it writes, and both have the same idea of a header."""
    shapes = {name: array.shape for name, array in ARRAYS.items() if array.dtype == np.float32}
    safetensors_stream.write(tmp_path / "x", np.dtype(np.float32), shapes, (ARRAYS[name] for name in shapes))
    theirs = load((tmp_path / "x").read_bytes())
    for name in shapes:
        np.testing.assert_array_equal(theirs[name], ARRAYS[name])
    (tmp_path / "y").write_bytes(save(ARRAYS))
    file = SafetensorsFile(tmp_path / "y")
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(file.read(name), array)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("[]", "no JSON object"),
        ("{", "not a complete safetensors file"),
        ('{"a": 1}', "entry of tensor 'a' should have"),
        ('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "entry of tensor 'a'"),
        ('{"a": {"dtype": "F32", "shape": [true], "data_offsets": [0, 4]}}', "entry of tensor 'a'"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', r"shape \(2,\) has 4 bytes"),
        ('{"a": {"dtype": "F32", "shape": [0], "data_offsets": [4, 4]}}', "belongs to no tensor or to two"),
        ('{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}', "describes 3 bytes, and 4 follow"),
        (
            '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
            ' "b": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]}}',
            "belongs to no tensor or to two",
        ),
        (
            '{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},'
            ' "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}',
            "names a tensor twice",
        ),
        ("[" * 100_000, "not a complete safetensors file"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path, header, words):
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"1234")
    with pytest.raises(ModelError, match=words):
        SafetensorsFile(tmp_path / "x")


def test_a_file_that_changes_after_it_was_opened(tmp_path):
    (tmp_path / "x").write_bytes(save(ARRAYS))
    file = SafetensorsFile(tmp_path / "x")
    (tmp_path / "x").write_bytes(save(ARRAYS)[: file.entries["a"].start + 3])
    with pytest.raises(ModelError, match=r"tensor 'a' cannot be read \(the file ends 45 bytes too soon"):
        file.read("a")


# --------------------------------------------------------------------------------------------------------------
# GGUF


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_gguf_damaged_anywhere(gguf_file, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(damaged(data, gguf_file.read_bytes()))
    try:
        file = GgufFile(path)
        for name, shape in file.shapes().items():
            assert file.read(name, ANY).shape == shape
        gguf_tokenizer.read(file).tokenizer.encode("What do herons eat? 河")
    except ModelError as error:
        assert str(path) in str(error)  # noqa: PT017 (it may also pass)


KINDS = [
    *("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16", "F32"),
]


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType[name] for name in KINDS])
def test_every_kind_of_block_is_read_as_the_package_reads_it(tmp_path, kind):
    """From random bytes: there is no quantiser for all kinds. Rows are read in blocks, here more than one."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    bytes_a_row = 512 // block * size
    raw = np.random.default_rng(0).integers(0, 60, (7, bytes_a_row), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "m.gguf")
    assert file.shapes() == {"x": (7, 512)}
    np.testing.assert_array_equal(file.read("x", ANY), gguf.dequantize(raw, kind))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"general.alignment": "x"}, "general.alignment is 'x'"),
        ({"general.alignment": 0}, "general.alignment is 0"),
    ],
)
def test_gguf_with_an_impossible_alignment(tmp_path, fields, words):
    with pytest.raises(ModelError, match=words):
        write_vocabulary(tmp_path / "m.gguf", fields)


# --------------------------------------------------------------------------------------------------------------
# Tokenizers, pickles, code


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_tokenizer_files_damaged_anywhere(directory, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "tokenizer"
    path.mkdir(exist_ok=True)
    name = data.draw(st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json"]))
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        content = (directory / file).read_bytes()
        (path / file).write_bytes(damaged(data, content) if file == name else content)
    try:
        chat.from_directory(path).encode([{"role": "user", "content": "Grüße"}])
    except JaxalignError as error:
        assert str(path) in str(error)  # noqa: PT017 (it may also pass)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt", "last.ckpt"])
def test_pickles_are_refused_by_name(directory, tmp_path, name):
    for file in directory.iterdir():
        if file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(ModelError, match=rf"{name}: pickled weights .* never read; convert them to safetensors"):
        Pretrained(str(tmp_path)).open()
    index = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="only safetensors are read"):
        Directory(tmp_path)


def test_code_of_a_directory_is_never_run(directory, tmp_path):
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "modeling.py").write_text("raise SystemExit('it was run')")
    config = json.loads((tmp_path / "config.json").read_text())
    auto_map = {"AutoModelForCausalLM": "modeling.Model"}
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": auto_map}))
    with pytest.raises(ModelError, match=r"config\.json: model_type 'own' is not supported"):
        Pretrained(str(tmp_path)).open()
