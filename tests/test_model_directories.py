"""Model directories that say things in more than one place, or leave them out: read as transformers 5 reads them, or
refused by name.

What transformers makes of each was computed with its version 5.23.0; the ids are written out by hand.
"""

import json
import shutil

import numpy as np
import pytest
from made_directories import (
    CHATML,
    EOT,
    HI,
    PLAIN,
    ROLES,
    change,
    directory,
    opened,
    spelled,
    token,
    weights,
)

from jaxalign.errors import DataError, ModelError
from jaxalign.exchange import export
from jaxalign.formats import native

SPECIAL = {"<|pad|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}


@pytest.fixture
def home(tmp_path):
    return directory(tmp_path / "model")


# --------------------------------------------------------------------------------------------------------------
# Tokens


def ways(home, name: str) -> None:
    """Says in one of the ways there are that EOT is a token."""
    file = home / "tokenizer_config.json"
    if name == "added_tokens_decoder":
        listed = {str(id): token(text) for text, id in SPECIAL.items()}
        change(file, added_tokens_decoder={**listed, "259": token(EOT)})
    elif name in ("additional_special_tokens", "extra_special_tokens"):
        change(file, **{name: [EOT]})
    elif name == "extra_special_tokens by name":
        change(file, extra_special_tokens={"turn_token": EOT})
    elif name == "a role":
        change(file, sep_token=EOT)
    elif name == "special_tokens_map.json":
        change(home / name, additional_special_tokens=[{"content": EOT, "lstrip": False}])
    else:
        change(home / name, **{EOT: 259})


@pytest.mark.parametrize(
    "way",
    [
        "added_tokens_decoder",
        "additional_special_tokens",
        "extra_special_tokens",
        "extra_special_tokens by name",
        "a role",
        "special_tokens_map.json",
        "added_tokens.json",
    ],
)
def test_a_token_is_one_id_wherever_a_directory_names_it(tmp_path, way):
    home = directory(tmp_path / "model", rows=272)
    ways(home, way)
    change(home / "tokenizer_config.json", chat_template=CHATML.replace("<|im_end|>", EOT))
    text = "<|im_start|>user\nHi<|eot|>\n<|im_start|>assistant\n"
    found = opened(home).chat
    assert found.encode(HI) == spelled(text, {**SPECIAL, EOT: 259})
    assert found.decode([75, 108, 259]) == "Hi" if way != "added_tokens.json" else "Hi" + EOT


def test_what_adds_nothing_changes_nothing(home):
    before = opened(home).chat.fingerprints
    change(home / "special_tokens_map.json", **ROLES)
    change(home / "tokenizer_config.json", added_tokens_decoder={str(id): token(text) for text, id in SPECIAL.items()})
    assert opened(home).chat.fingerprints == before


def test_names_of_tokens_are_the_templates_to_use(home):
    change(home / "special_tokens_map.json", bos_token="<|im_start|>", cls_token={"content": "<|pad|>"})
    names = {"bos_token": None, "extra_special_tokens": {"image_token": "<|im_end|>"}}
    template = "{{ bos_token }}{{ cls_token }}{{ image_token }}{{ eos_token }}{{ sep_token }}"
    change(home / "tokenizer_config.json", chat_template=template, **names)
    assert opened(home).chat.encode(HI) == [1, 0, 2, 2]


def test_flags_of_the_config_override_those_of_the_tokenizer(home):
    listed = {str(id): token(text, rstrip=True) for text, id in SPECIAL.items()}
    change(home / "tokenizer_config.json", added_tokens_decoder=listed)
    text = "<|im_start|>user\nHi<|im_end|><|im_start|>assistant\n"
    assert opened(home).chat.encode(HI) == spelled(text, SPECIAL)


def test_no_end_of_a_turn_is_in_decoded_text(home):
    parts = json.loads((home / "tokenizer.json").read_text())
    change(home / "tokenizer.json", added_tokens=[{**added, "special": False} for added in parts["added_tokens"]])
    assert opened(home).chat.decode([107, 108, 2]) == "hi"
    # nor one that has no name
    change(home / "tokenizer_config.json", eos_token=None)
    assert opened(home).chat.decode([107, 108, 2]) == "hi"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"eos_token": "\ud800"}, "eos_token should be a token's text"),
        ({"eos_token": 3}, "eos_token should be a token's text"),
        ({"extra_special_tokens": 3}, "extra_special_tokens should be a list"),
        ({"extra_special_tokens": [{"text": "x"}]}, r"extra_special_tokens\['0'\] should be"),
        ({"added_tokens_decoder": {"x": {}}}, "should map ids to tokens"),
        ({"added_tokens_decoder": {"1": "x"}}, r"added_tokens_decoder\['1'\] should be an object"),
        ({"added_tokens_decoder": {"1": token("x", lstrip=3)}}, "flags"),  # type: ignore[arg-type]
        ({"split_special_tokens": True}, "split_special_tokens"),
        ({"chat_template": [{"name": ["x"], "template": "x"}]}, "neither chat_template.jinja"),
        ({"chat_template": " \n"}, "the chat template is empty"),
    ],
)
def test_what_is_no_token_is_named(home, fields, words):
    change(home / "tokenizer_config.json", **fields)
    with pytest.raises(ModelError, match=words):
        opened(home)


def test_a_tokenizer_in_files_that_are_not_read_is_named(home):
    (home / "tokenizer.json").rename(home / "vocab.json")
    with pytest.raises(ModelError, match=r"vocab\.json alone is not read"):
        opened(home)


# --------------------------------------------------------------------------------------------------------------
# Ends of turns, templates, and ids without a row


@pytest.mark.parametrize(
    ("generation", "config", "eos", "stop"),
    [
        (None, [2, 5, 7], "<|im_end|>", (2, 5, 7)),
        (None, 5, None, (5,)),
        ([1, 7], 5, "<|im_end|>", (1, 7, 2)),
        ("absent", 5, "<|im_end|>", (5, 2)),
    ],
)
def test_ends_of_turns_are_those_of_transformers(home, generation, config, eos, stop):
    """config.json has the word where generation_config.json is not there."""
    file = home / "generation_config.json"
    file.unlink() if generation is None else change(file, eos_token_id=None if generation == "absent" else generation)
    change(home / "config.json", eos_token_id=config)
    change(home / "tokenizer_config.json", eos_token=eos)
    assert opened(home).chat.stop == stop


def test_true_is_no_id(home):
    change(home / "generation_config.json", eos_token_id=True)
    with pytest.raises(ModelError, match="no usable end-of-turn id"):
        opened(home)


def test_an_end_of_a_turn_needs_a_row_and_no_text(tmp_path):
    """Tables are longer than vocabularies, so that devices divide them; what is behind them can never be drawn."""
    home = directory(tmp_path / "model", rows=272)
    change(home / "generation_config.json", eos_token_id=270)
    assert opened(home).chat.stop == (270, 2)
    change(home / "generation_config.json", eos_token_id=272)
    with pytest.raises(ModelError, match="end-of-turn id 272 is behind the model's 272 rows"):
        opened(home)


def test_a_token_behind_the_table_is_no_matter_until_it_is_spelled(home):
    """Gemma 3 270M and 1B are released with the image token of their larger siblings."""
    change(home / "tokenizer_config.json", extra_special_tokens=[EOT], pad_token=EOT)
    found = opened(home).chat
    assert found.encode(HI) == PLAIN.chat.encode(HI)
    assert (found.vocab, found.rows, found.pad) == (260, 259, 2)
    with pytest.raises(DataError, match=r"spells the token '<\|eot\|>', id 259, and the model .* has 259 rows"):
        found.encode([{"role": "user", "content": f"a{EOT}"}])
    with pytest.raises(DataError, match="has 259 rows"):
        found.offsets(f"a{EOT}")
    with pytest.raises(DataError, match="has 259 rows"):
        found.encode_all(["a", EOT])


def test_a_token_of_plain_text_behind_the_table_is_refused(home):
    parts = json.loads((home / "tokenizer.json").read_text())
    symbol = next(text for text, id in parts["model"]["vocab"].items() if id == 200)
    parts["model"]["vocab"][symbol] = 400
    (home / "tokenizer.json").write_text(json.dumps(parts))
    with pytest.raises(ModelError, match="as id 400, the model 259 rows"):
        opened(home)


def test_templates_in_files_of_their_own(home, tmp_path):
    """As transformers 5 saves a tokenizer with a template for tools; import and export keep both."""
    change(home / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ModelError, match="neither chat_template"):
        opened(home)
    (home / "chat_template.jinja").write_text(CHATML)
    (home / "additional_chat_templates").mkdir()
    (home / "additional_chat_templates" / "tool_use.jinja").write_text("TOOLS {{ tools | tojson }}")
    model = opened(home)
    assert model.chat.render(HI, [{"name": "f"}]) == 'TOOLS [{"name": "f"}]'
    assert "additional_chat_templates/tool_use.jinja" in native.contents(home)
    export.export(model, model.load(), tmp_path / "again")
    assert opened(tmp_path / "again").chat.fingerprints == model.chat.fingerprints


def test_an_export_hands_on_how_a_model_is_sampled_from(home, tmp_path):
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.95}
    change(home / "generation_config.json", **settings, renormalize_logits=True)
    change(home / "tokenizer_config.json", extra_special_tokens={"image": "<|pad|>"}, padding_side="left")
    model = opened(home)
    export.export(model, model.load(), tmp_path / "again")
    written = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert settings.items() <= written.items()
    assert opened(tmp_path / "again").chat.fingerprints == model.chat.fingerprints
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["padding_side"] == "left"


def test_a_directory_needs_no_tokenizer_config(home):
    (home / "tokenizer_config.json").unlink()
    (home / "chat_template.jinja").write_text(CHATML)
    assert opened(home).chat.encode(HI) == PLAIN.chat.encode(HI)


def test_a_content_of_none_is_no_word(home):
    turns = [*HI, {"role": "assistant", "content": None, "tool_calls": []}]
    assert opened(home).chat.render(turns, answering=False).endswith("<|im_start|>assistant\n<|im_end|>\n")


# --------------------------------------------------------------------------------------------------------------
# Weights


def other(found):
    return {name: value + 1 for name, value in found.items()}


def embedding(home) -> np.ndarray:
    return np.asarray(opened(home).load()["embed"])


def test_a_tied_head_that_has_parted_is_a_head(home):
    """Merges and trainers leave the flag; transformers 5 keeps both matrices apart and so do we."""
    change(home / "config.json", tie_word_embeddings=True)
    parted = opened(home)
    assert not parted.config.tied
    np.testing.assert_array_equal(parted.load()["head"], PLAIN.load()["head"])
    weights(home, lambda found: {**found, "lm_head.weight": found["model.embed_tokens.weight"]})
    assert opened(home).config.tied
    # the head alone is the embedding too
    weights(home, lambda found: {k: v for k, v in found.items() if k != "model.embed_tokens.weight"})
    np.testing.assert_array_equal(embedding(home), PLAIN.load()["embed"])


def test_a_single_file_is_read_whatever_lies_beside_it(home):
    index = dict.fromkeys(PLAIN.read.reader.shapes(), "model-00001-of-00001.safetensors")
    (home / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    np.testing.assert_array_equal(embedding(home), PLAIN.load()["embed"])  # the shards are gone
    shutil.copy(home / "model.safetensors", home / "model-00001-of-00001.safetensors")
    weights(home, other)
    np.testing.assert_array_equal(embedding(home), np.asarray(PLAIN.load()["embed"]) + 1)
    assert set(opened(home).files) == {"model.safetensors"}


def test_a_decoder_that_was_saved_bare_is_the_same_model(home):
    weights(home, lambda found: {name.removeprefix("model."): value for name, value in found.items()})
    np.testing.assert_array_equal(embedding(home), PLAIN.load()["embed"])


@pytest.mark.parametrize("prefix", ["base_model.model.", "_orig_mod.", "module."])
def test_names_under_a_wrappers_name_are_told(home, prefix):
    weights(home, lambda found: {prefix + name: value for name, value in found.items()})
    with pytest.raises(ModelError, match=rf"is missing.*'{prefix}model.embed_tokens.weight' is there"):
        opened(home)


@pytest.mark.parametrize(
    ("alone", "words"), [(False, "adapter beside a model"), (True, "adapter of 'org/base', no model")]
)
def test_an_adapter_is_named(home, alone, words):
    change(home / "adapter_config.json", base_model_name_or_path="org/base")
    if alone:
        (home / "config.json").unlink()
        (home / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=words):
        opened(home)


def test_shards_without_an_index_and_pointers_are_told(home):
    (home / "model.safetensors").rename(home / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelError, match="shards are read by their index"):
        opened(home)
    (home / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(ModelError, match="Git LFS pointer"):
        opened(home)


# --------------------------------------------------------------------------------------------------------------
# config.json


def test_stamps_of_tools_and_defaults_written_out_change_nothing(home):
    change(
        home / "config.json",
        unsloth_version="2025.9.7",
        tokenizer_class="LlamaTokenizerFast",
        pruned_heads={},
        is_encoder_decoder=False,
        temperature=1.0,
        max_length=20,
        id2label={"0": "LABEL_0"},
        auto_map={"AutoConfig": "x"},
    )
    assert opened(home).config == PLAIN.config


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": ["llama"]}, "model_type should be a name"),
        ({"model_type": {}}, "model_type should be a name"),
        ({"num_hidden_layers": 2**31 - 1}, "no model has more than"),
        ({"num_hidden_layers": 2**63}, "num_hidden_layers should be"),
        ({"hidden_size": 2**31}, "hidden_size should be"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps should be"),
        ({"rope_theta": float("inf")}, "rope_theta should be"),
        ({"attention_version": 2}, "unknown field 'attention_version'"),
        ({"auto_map": {"AutoConfig": "x", "AutoModelForCausalLM": "modeling.Own"}}, "unknown field 'auto_map'"),
        ({"rope_theta": 10**400}, "rope_theta should be"),
        ({"is_encoder_decoder": True}, "unknown field 'is_encoder_decoder'"),
        ({"pruned_heads": {"0": [1]}}, "unknown field 'pruned_heads'"),
        ({"residual_scale": 2.0}, "unknown field 'residual_scale'"),
        ({"architectures": 3, "residual_scale": 2.0}, "unknown field 'residual_scale'"),
    ],
)
def test_what_no_model_says_is_refused_at_once(home, fields, words):
    change(home / "config.json", **fields)
    with pytest.raises(ModelError, match=words):
        opened(home)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"])
def test_two_thousand_million_layers_are_refused_by_every_family(home, model_type):
    act = {"hidden_act": None, "hidden_activation": "gelu_pytorch_tanh"} if "gemma" in model_type else {}
    change(home / "config.json", model_type=model_type, num_hidden_layers=2**31 - 1, **act)
    with pytest.raises(ModelError, match="no model has more than"):
        opened(home)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "an empty path"),
        ("~/model", "stands for itself"),
        ("org/model", "a name of the Hub is not fetched"),
        ("a" * 300, "File name too long"),
        ("file:///tmp/model", "disks and from buckets"),
        ("http://host/model", "disks and from buckets"),
    ],
)
def test_what_is_no_place_is_told(place, words):
    with pytest.raises(ModelError, match=words):
        opened(place)
