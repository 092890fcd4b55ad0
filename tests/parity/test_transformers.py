"""The same models in transformers: log-probs, greedy answers, prompts, and directories both ways.

Needs torch and transformers: pip install -e '.[test,parity]'; run with `pytest -m parity tests/parity`.
"""

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.errors import ModelError
from jaxalign.exchange.export import export
from jaxalign.models.model import Model
from jaxalign.models.pretrained import Pretrained, SmolLM2
from jaxalign.models.random_llama import RandomLlama
from jaxalign.ops.attention import Together
from jaxalign.types import Params

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from made_theirs import theirs  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("default")]

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "goldens" / "smollm2.json").read_text(encoding="utf-8"))
CONVERSATIONS = [
    GOLDEN["messages"],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2 = ?  In 1984?\n\n\tGrüße ✓ 你好"}],
    [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<|im_end|> b"},
        {"role": "user", "content": ""},
    ],
]


def ours(model: Model, params: Params, ids: list[list[int]]) -> np.ndarray:
    """Log-probs of every next token, [n s-1]."""
    tokens = jnp.asarray(ids)
    rows, length = tokens.shape
    causal = jnp.tile(jnp.tril(jnp.ones((length, length), bool))[None], (rows, 1, 1))
    position = jnp.tile(jnp.arange(length)[None], (rows, 1))

    @jax.jit
    def logps(params):
        hidden = model.hidden(params, tokens, position, causal)
        scores = jax.nn.log_softmax(model.logits(params, hidden[:, :-1]), -1)
        return jnp.take_along_axis(scores, tokens[:, 1:, None], -1)[..., 0]

    return np.asarray(logps(params))


def greedy(model: Model, params: Params, prompt: list[int], count: int, pad: int) -> list[int]:
    """`count` most likely tokens by prefill and decode, behind `pad` columns of padding."""
    width = pad + len(prompt)
    real = jnp.arange(width) >= pad
    mask = jnp.tril(jnp.ones((width, width), bool))[None] & real[None, None, :] & real[None, :, None]
    position = jnp.maximum(jnp.arange(width) - pad, 0)[None]
    tokens = jnp.asarray([[0] * pad + prompt])
    hidden, cache = jax.jit(model.prefill, static_argnums=(4, 5))(params, tokens, position, mask, 1, count)
    view = jax.jit(model.unstacked)(params)
    step = jax.jit(model.decode)
    found: list[int] = []
    for said in range(1, count + 1):
        found.append(int(model.logits(view, hidden).argmax(-1)[0]))
        progress = Together(jnp.asarray([len(prompt)]), jnp.asarray(said))
        hidden, cache = step(view, cache, jnp.asarray(found[-1:]), progress)
    return found


@pytest.fixture(scope="module")
def smollm2() -> tuple[Model, Params]:
    try:
        model = SmolLM2().open()
    except ModelError as error:
        pytest.skip(str(error))
    return model, model.load()


@pytest.fixture(scope="module")
def exported(smollm2, tmp_path_factory) -> tuple[Any, Any]:
    directory = tmp_path_factory.mktemp("smollm2") / "model"
    export(*smollm2, directory)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(directory)


def test_smollm2_agrees_with_transformers_reading_the_gguf_file(smollm2):
    found = ours(*smollm2, [GOLDEN["ids"]])
    assert abs(found.mean() - GOLDEN["mean_logp"]) < 1e-4
    np.testing.assert_allclose(found[0], GOLDEN["logps"], atol=5e-4)


@pytest.mark.parametrize("pad", [0, 5])
def test_greedy_answers_agree(smollm2, pad):
    assert greedy(*smollm2, GOLDEN["prompt"], len(GOLDEN["greedy"]), pad) == GOLDEN["greedy"]


def test_transformers_loads_the_export_with_the_same_log_probs(smollm2, exported):
    found, expected = ours(*smollm2, [GOLDEN["ids"]]), theirs(exported[0], [GOLDEN["ids"]])
    assert abs(found.mean() - expected.mean()) < 1e-4
    np.testing.assert_allclose(found, expected, atol=5e-4)


def test_transformers_encodes_and_stops_as_we_do(smollm2, exported):
    model, tokenizer = exported
    chat = smollm2[0].chat
    for messages in CONVERSATIONS:
        assert tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False) == chat.encode(
            messages
        )
    assert tokenizer.decode(GOLDEN["greedy"], skip_special_tokens=True) == chat.decode(GOLDEN["greedy"])
    assert model.generation_config.eos_token_id == chat.stop[0] == tokenizer.eos_token_id
    assert tokenizer.pad_token_id == chat.pad
    answer = model.generate(torch.tensor([GOLDEN["prompt"]]), max_new_tokens=len(GOLDEN["greedy"]), do_sample=False)
    assert answer[0, len(GOLDEN["prompt"]) :].tolist() == GOLDEN["greedy"]


SMALL = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "max_position_embeddings": 128,
}
SHAPES = {
    "tied": {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "one KV head": {"num_attention_heads": 6, "num_key_value_heads": 1, "rms_norm_eps": 1e-5},
    "own head size": {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "rope_theta": 5e5},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("shards", ["1GB", "60KB"])
def test_checkpoints_of_transformers_load_with_the_same_log_probs(tmp_path, shape, shards):
    export(*opened(RandomLlama()), tmp_path / "tokenizer")
    config = transformers.LlamaConfig(**SMALL, **shape, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weights in model.parameters():  # transformers' own scale of 0.02 makes nearly uniform predictions
            weights.mul_(5.0) if weights.ndim > 1 else weights.add_(0.3 * torch.randn_like(weights))
    directory = tmp_path / "model"
    model.save_pretrained(directory, max_shard_size=shards)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (directory / file).write_bytes((tmp_path / "tokenizer" / file).read_bytes())
    ids = np.random.default_rng(0).integers(0, 300, (2, 40)).tolist()
    found, expected = ours(*opened(Pretrained(str(directory))), ids), theirs(model, ids)
    assert expected.std() > 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_loads_every_kind_of_export(tmp_path, dtype, tied):
    model, params = opened(RandomLlama(tied=tied))
    export(model, params, tmp_path / "model", dtype, shard_bytes=30_000)
    kind = getattr(torch, dtype)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert loaded.dtype == kind
    ids = np.random.default_rng(0).integers(0, 259, (2, 40)).tolist()
    rounded = Pretrained(str(tmp_path / "model")).open().load()
    np.testing.assert_allclose(ours(model, rounded, ids), theirs(loaded.float(), ids), rtol=1e-5, atol=1e-5)


def opened(source: RandomLlama | Pretrained) -> tuple[Model, Params]:
    model = source.open()
    return model, model.load()
