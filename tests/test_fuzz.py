"""Files from strangers with anything in the place of anything: read, or refused by a JaxalignError, in bounded memory.

Damaged bytes are tried in `test_damage` and `test_data_bad_rows`; here the JSON is whole and its values are not.
`make fuzz` tries many more of each than the suite does, and opens the models too.
"""

import contextlib
import json
import os
import pathlib
import resource
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_chats import with_template
from made_directories import HI, directory
from made_gguf import write_gguf

from jaxalign.data import jsonl
from jaxalign.errors import JaxalignError
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import Directory
from jaxalign.models.family import config_of_gguf, config_of_hf, families
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.pretrained import Pretrained
from jaxalign.text import chat

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Of each test; 0: as many as the suite has time for."""
MEMORY = 2**20
"""KiB that the process may grow by: 1 GiB."""
TOKENS = (
    "tokenizer_config.json",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)


@pytest.fixture(scope="module", autouse=True)
def before() -> int:
    """KiB that the process has held at most, whatever it did before."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def tries(count: int) -> settings:
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=EXAMPLES or count, deadline=None, suppress_health_check=quiet)


NUMBERS = st.sampled_from([0, -1, 1, 2, 3, 8, 257, 2**31, 2**63, 2**64, 10**30, 0.0, -0.5, 1e-45, 1e39, 1e308])
TEXTS = st.sampled_from(
    ["", " ", "default", "llama3", "linear", "<|im_end|>", "\ud800", "\x00", "../x", "{{ x }}", "{%", "é" * 300]
)
FIELDS = ("content", "special", "lstrip", "name", "template", "rope_type", "factor", "0", "1", "rope_theta")
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from([float("nan"), float("inf")]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> pathlib.Path:
    return directory(tmp_path_factory.mktemp("fuzzed") / "model")


@tries(40)
@given(data=st.data())
def test_configs_of_any_content(home, data):
    family = data.draw(st.sampled_from(families()))
    whole = json.loads((home / "config.json").read_text()) | {"model_type": family.model_type}
    extra = (
        "rope_scaling",
        "rope_parameters",
        "layer_types",
        "sliding_window",
        "id2label",
        "architectures",
        "num_experts",
        "x",
    )
    changed = data.draw(st.dictionaries(st.sampled_from((*whole, *extra)), ANYTHING, min_size=1, max_size=3))
    try:
        config = config_of_hf(HfFields(whole | changed, home / "config.json"))
        assert all(isinstance(problem, str) for problem in config.problems())
    except JaxalignError as error:
        assert "config.json" in str(error)  # noqa: PT017 (it may also pass)


@tries(25)
@given(data=st.data())
def test_tokens_and_templates_of_any_content(home, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any"
    path.mkdir(exist_ok=True)
    name = data.draw(st.sampled_from(TOKENS))
    for file in TOKENS:
        whole = json.loads((home / file).read_text()) if (home / file).exists() else {}
        keys = (
            *whole,
            "added_tokens_decoder",
            "extra_special_tokens",
            "additional_special_tokens",
            "sep_token",
            "x_token",
            "259",
        )
        changed = (
            data.draw(st.dictionaries(st.sampled_from(keys), ANYTHING, min_size=1, max_size=3)) if file == name else {}
        )
        (path / file).write_text(json.dumps(whole | changed))
    (path / "tokenizer.json").write_bytes((home / "tokenizer.json").read_bytes())
    (path / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes())
    try:
        if EXAMPLES:
            Pretrained(str(path)).open()
        chat.fitted(chat.from_directory(path), 259).encode(HI)
    except JaxalignError:
        pass


@tries(60)
@given(
    header=st.dictionaries(
        TEXTS,
        ANYTHING
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "I8", "X"]),
                "shape": st.lists(NUMBERS, max_size=3),
                "data_offsets": st.lists(NUMBERS, max_size=3),
            }
        ),
        max_size=3,
    ),
    size=st.integers(0, 64),
)
def test_safetensors_headers_of_any_content(tmp_path, header, size):
    content = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(content)) + content + bytes(size))
    try:
        shapes = Directory(tmp_path).shapes()
    except JaxalignError:
        return
    assert all(all(side >= 0 for side in shape) for shape in shapes.values())


@tries(25)
@given(data=st.data())
def test_ggufs_with_other_fields(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.gguf"
    if not path.exists():
        write_gguf(path)
    file = GgufFile(path)
    changed = data.draw(st.dictionaries(st.sampled_from(sorted(file.fields)), ANYTHING, min_size=1, max_size=3))
    file.fields |= changed
    try:
        config = config_of_gguf(GgufFields(file))
        assert all(isinstance(problem, str) for problem in config.problems())
        chat.fitted(chat.from_gguf(file), config.vocab).encode(HI)
    except JaxalignError:
        pass


@tries(80)
@given(
    row=st.dictionaries(
        st.sampled_from(["prompt", "messages", "tools", "id"]),
        ANYTHING
        | st.lists(
            st.fixed_dictionaries({"role": ANYTHING | st.sampled_from(["user", "assistant"]), "content": ANYTHING}),
            max_size=2,
        ),
        max_size=3,
    )
)
def test_rows_of_any_content(row):
    line = json.dumps(row).encode()
    try:
        found = jsonl.parse_object(line)
        jsonl.check_tools(found.get("tools"), "tools")
        jsonl.check_messages(found.get("messages"), "messages")
    except jsonl.RowError as error:
        assert len(str(error)) < 1000  # noqa: PT017 (it may also pass)


PARTS = (
    "{{ x }} | {% for m in messages %} | {% endfor %} | {% if tools %} | {% endif %} | {{ m.content }} | {{ x.y }}",
    "{{ messages[0]['role'] * 9 }} | {% set x = namespace(y=1) %} | {% set x.y = x.y * 99 %} | {% macro f() %}",
    "{% endmacro %} | {{ '%s' % x }} | {{ messages[1:] }} | {{ ''.join([x] * 9) }} | {% generation %} | {# | #}",
    "{% endgeneration %} | {{ raise_exception(x) }} | {{ x.__class__ }} | {{ range(10**9) }} | {{ f() }} | text",
)
PIECES = st.sampled_from([piece for part in PARTS for piece in part.split(" | ")])
"""Of templates, well formed each."""


@tries(60)
@given(pieces=st.lists(PIECES, max_size=8))
def test_templates_of_any_pieces(pieces):
    with contextlib.suppress(JaxalignError):
        chat.checked(with_template("".join(pieces))).encode(HI)


def test_none_of_it_took_much_memory(before):
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
