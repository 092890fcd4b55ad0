"""The readers of files from strangers, each with files that it reads, and how a fuzzer changes them.

A reader is handed a file's bytes. It reads them, or raises a JaxalignError; whatever else comes out is a fault.
"""

import json
import pathlib
import random
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import array_record.python.array_record_module as array_record
import pyarrow
import pyarrow.parquet
from made_directories import CHATML, HI, change, directory
from made_gguf import write_gguf
from safetensors import safe_open

from jaxalign.data.comparisons.guess import guessed
from jaxalign.data.comparisons.pairs import Pairs
from jaxalign.data.prompts import JsonlPrompts
from jaxalign.data.tables.file import File
from jaxalign.data.tables.strict import Stop, Tally
from jaxalign.errors import JaxalignError
from jaxalign.models.pretrained import Pretrained

PAIRS = (
    b'{"prompt": "Why?", "chosen": "So.", "rejected": "No."}',
    b'{"chosen": [{"role": "user", "content": "\\u00e9?"}, {"role": "assistant", "content": "1e5"}],'
    b' "rejected": [{"role": "user", "content": "\\u00e9?"}, {"role": "assistant", "content": ""}]}',
)
PROMPTS = (
    b'{"id": "a", "prompt": "Why?"}',
    b'{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How?"}],'
    b' "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}',
)
TEMPLATES = (
    CHATML,
    "{{ bos_token }}{% for m in messages if m.content %}{% generation %}{{ m['content'] | trim }}{% endgeneration %}"
    "{{ loop.index0 ~ strftime_now('%d %b %Y') }}{% endfor %}",
    "{% macro f(x) %}{{ x.y.z }}{% endmacro %}{% set ns = namespace(n=0) %}{{ f(messages[-1:]) }}"
    "{% if tools is defined and tools %}{{ tools | tojson(indent=4) }}{% endif %}{{ raise_exception('no') }}",
)


@dataclass(frozen=True)
class Reader:
    """Of files of one kind."""

    file: str
    """where the bytes lie in the reader's folder"""
    seeds: Callable[[pathlib.Path], Iterator[bytes]]
    """files that it reads, and folders that are made for it: `seeds(home)`"""
    read: Callable[[pathlib.Path], None]
    """reads the file in the folder"""
    json: bool = False
    """whether the bytes are one JSON value"""

    def tried(self, home: pathlib.Path, content: bytes) -> bool:
        """Whether the bytes are read; False where they are refused. Raises what is no JaxalignError."""
        place = home / self.file
        place.write_bytes(content)
        try:
            self.read(home)
        except JaxalignError as error:
            if not str(error):
                raise AssertionError("the error says nothing") from error
            return False
        return True


# ----------------------------------------------------------------------------------------------------------------------
# Models


def model(home: pathlib.Path) -> pathlib.Path:
    """A small directory of a model, made once."""
    if not (home / "config.json").exists():
        directory(home)
    return home


def opened(home: pathlib.Path) -> None:
    """Opens the directory as a run does, and encodes a prompt."""
    Pretrained(str(home)).open().chat.encode(HI)


def file_of_model(file: str, *more: bytes) -> Callable[[pathlib.Path], Iterator[bytes]]:
    def seeds(home: pathlib.Path) -> Iterator[bytes]:
        yield (model(home) / file).read_bytes()
        yield from more

    return seeds


def weights(home: pathlib.Path) -> None:
    """Opens the directory, and reads all of its tensors."""
    Pretrained(str(home)).open().load()


def index_seeds(home: pathlib.Path) -> Iterator[bytes]:
    shard = model(home) / "model-00001-of-00001.safetensors"
    if not shard.exists():
        (home / "model.safetensors").rename(shard)
    with safe_open(shard, "np") as file:
        yield json.dumps({"metadata": {}, "weight_map": dict.fromkeys(sorted(file.keys()), shard.name)}).encode()


def gguf_seeds(home: pathlib.Path) -> Iterator[bytes]:
    home.mkdir(exist_ok=True)
    write_gguf(home / "seed.gguf")
    yield (home / "seed.gguf").read_bytes()


def gguf(home: pathlib.Path) -> None:
    """Opens the file, encodes a prompt, and reads all tensors."""
    found = Pretrained(str(home / "model.gguf")).open()
    found.chat.encode(HI)
    found.load()


def template_seeds(home: pathlib.Path) -> Iterator[bytes]:
    """Templates in a file of their own; the last one refuses to be written."""
    model(home)
    change(home / "tokenizer_config.json", chat_template=None)
    yield from (template.encode() for template in TEMPLATES)


# ----------------------------------------------------------------------------------------------------------------------
# Data


def lines(*rows: bytes) -> Callable[[pathlib.Path], Iterator[bytes]]:
    def seeds(home: pathlib.Path) -> Iterator[bytes]:
        home.mkdir(exist_ok=True)
        yield b"\n".join(rows) + b"\n"
        yield rows[0]

    return seeds


def array_seeds(home: pathlib.Path) -> Iterator[bytes]:
    home.mkdir(exist_ok=True)
    yield b"[" + b",\n ".join(PAIRS) + b"]\n"
    yield b"\n".join(PAIRS)


def separated_seeds(home: pathlib.Path) -> Iterator[bytes]:
    home.mkdir(exist_ok=True)
    yield b'prompt,chosen,rejected,n\r\n"Why, ""so""?",So.,"No\n.",1e5\r\n\r\nHow?,Slowly.,No.,true\r\n'
    yield b"prompt,chosen,rejected\nWhy?,So.,\xc3\xa9"


def parquet_seeds(home: pathlib.Path) -> Iterator[bytes]:
    home.mkdir(exist_ok=True)
    texts = {"prompt": ["Why?", "How?"], "chosen": ["So.", "Slowly."], "rejected": ["No.", ""]}
    more = {"at": pyarrow.array([0, 1], pyarrow.timestamp("ms")), "n": [1.5, None], "deep": [[{"x": 1}], []]}
    for number, table in enumerate((texts, texts | more)):
        pyarrow.parquet.write_table(pyarrow.table(table), home / f"seed{number}")
        yield (home / f"seed{number}").read_bytes()


def record_seeds(home: pathlib.Path) -> Iterator[bytes]:
    (home / "records").mkdir(parents=True, exist_ok=True)
    path = home / "records" / "pairs.array_record"
    writer = array_record.ArrayRecordWriter(str(path), "group_size:1")
    for row in PAIRS:
        writer.write(row)
    writer.close()
    yield path.read_bytes()


def pairs(name: str) -> Callable[[pathlib.Path], None]:
    def read(home: pathlib.Path) -> None:
        for _ in Pairs(File(str(home / name), max_line_bytes=1 << 16)).read(Tally()):
            pass

    return read


def shape_seeds(home: pathlib.Path) -> Iterator[bytes]:
    """A row of each shape that columns tell."""
    home.mkdir(exist_ok=True)
    asked = {"prompt": "Why?"}
    for row in (
        asked | {"chosen": "So.", "rejected": "No.", "margin": 2, "tie": False},
        asked | {"output_1": "So.", "output_2": "No.", "p2": 0.25},
        asked | {"response1": "So.", "response2": "No.", "annotator1": 1, "annotator2": 0},
        asked | {"answers": ["So.", "No."], "ratings": [2, 1]},
        asked | {"responses": [{"text": "So.", "rank": 1}, {"text": "No.", "rank": 2}]},
        asked | {"completion": "So.", "label": True},
        asked | {"response": "So.", "rating": 4},
        {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    ):
        yield json.dumps(row).encode()


def shapes(home: pathlib.Path) -> None:
    """Whatever the columns tell."""
    for _ in guessed(File(str(home / "rows.jsonl"), max_line_bytes=1 << 16), None, None, Stop()).read(Tally()):
        pass


def prompts(home: pathlib.Path) -> None:
    JsonlPrompts(str(home / "prompts.jsonl"), max_line_bytes=1 << 16).read()


READERS: Mapping[str, Reader] = {
    "config": Reader("config.json", file_of_model("config.json"), opened, json=True),
    "tokenizer": Reader("tokenizer.json", file_of_model("tokenizer.json"), opened, json=True),
    "tokens": Reader("tokenizer_config.json", file_of_model("tokenizer_config.json"), opened, json=True),
    "index": Reader("model.safetensors.index.json", index_seeds, opened, json=True),
    "safetensors": Reader("model.safetensors", file_of_model("model.safetensors"), weights),
    "gguf": Reader("model.gguf", gguf_seeds, gguf),
    "template": Reader("chat_template.jinja", template_seeds, opened),
    "prompts": Reader("prompts.jsonl", lines(*PROMPTS), prompts),
    "jsonl": Reader("pairs.jsonl", lines(*PAIRS), pairs("pairs.jsonl")),
    "shapes": Reader("rows.jsonl", shape_seeds, shapes, json=True),
    "json": Reader("pairs.json", array_seeds, pairs("pairs.json")),
    "csv": Reader("pairs.csv", separated_seeds, pairs("pairs.csv")),
    "parquet": Reader("pairs.parquet", parquet_seeds, pairs("pairs.parquet")),
    "records": Reader("records/pairs.array_record", record_seeds, pairs("records")),
}

# ----------------------------------------------------------------------------------------------------------------------
# Changes that keep JSON whole, which bytes changed at random rarely do

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 259, 2**31, 2**53, 2**63, 10**400, 0.0, -0.5, 1e-45, 1e39, 1e308),
    *(float("nan"), float("inf"), "", " ", "default", "llama3", "linear", "<|im_end|>", "\ud800", "\x00", "../x", "{{"),
    *([], [0], {}, {"": ""}, [[]], ["x"], "x" * 300),
)


def changed(value: Any, dice: random.Random) -> Any:
    """The JSON value with something else at one place of it: a value, a key, or less."""
    places: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        keys = inner.keys() if isinstance(inner, dict) else range(len(inner)) if isinstance(inner, list) else ()
        for key in keys:
            places.append((inner, key))
            walk(inner[key])

    walk(value)
    if not places:
        return dice.choice(VALUES)
    within, key = dice.choice(places)
    match dice.randrange(4):
        case 0 if isinstance(within, dict):
            within[dice.choice([str(dice.choice(VALUES)), key + "x"])] = within.pop(key)
        case 1:
            del within[key]
        case 2:
            other, at = dice.choice(places)
            within[key] = json.loads(json.dumps(other[at]))
        case _:
            within[key] = dice.choice(VALUES)
    return value


def reshaped(content: bytes, dice: random.Random) -> bytes | None:
    """The bytes of a JSON value, changed where it is whole; None of bytes that are none."""
    try:
        value = json.loads(content)
        for _ in range(dice.randint(1, 3)):
            value = changed(value, dice)
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return None


def mutated(reader: Reader, content: bytes, dice: random.Random) -> bytes:
    """The content as a fuzzer without a guide changes it: values of JSON, or bytes."""
    if reader.json and dice.random() < 0.7 and (made := reshaped(content, dice)) is not None:
        return made
    at = dice.randrange(len(content) + 1)
    match dice.randrange(4):
        case 0:
            return content[:at]
        case 1:
            return content[:at] + dice.randbytes(dice.randint(1, 9)) + content[at:]
        case 2:
            return content[:at] + struct.pack("<Q", dice.choice((0, 1, 2**31, 2**63, 2**64 - 1))) + content[at + 8 :]
    return content[:at] + bytes(byte ^ 1 << dice.randrange(8) for byte in content[at : at + 1]) + content[at + 1 :]
