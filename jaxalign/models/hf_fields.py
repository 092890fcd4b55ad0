"""The fields of one config.json, each read by name; what nobody asks for is refused: it may change the maths."""

import math
from collections.abc import Mapping
from typing import Any

from jaxalign.errors import ModelError
from jaxalign.formats.weights import Folder

HARMLESS = """
    architectures attention_dropout bos_token_id cache_implementation dtype eos_token_id initializer_range
    is_llama_config model_type output_attentions output_hidden_states output_router_logits pad_token_id pretraining_tp
    return_dict router_aux_loss_coef torch_dtype transformers.js_config transformers_version unsloth_fixed use_cache
    _attn_implementation_autoset _name_or_path

    _attn_implementation _attn_implementation_internal attn_implementation _commit_hash
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id finetuning_task id2label is_decoder
    label2id loss_type max_sequence_length model_max_length num_labels output_scores prefix problem_type
    return_dict_in_generate sep_token_id task_specific_params tf_legacy_loss tie_encoder_decoder tokenizer_class
    torchscript use_bfloat16 use_return_dict

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences remove_invalid_values repetition_penalty
    suppress_tokens temperature top_k top_p typical_p
"""
"""Fields that do not touch the forward pass: of the families themselves, of the config that all of transformers' models
derive from and of tools, and what older versions kept here of generation."""
HARMLESS_IF_FALSE = ("add_cross_attention", "is_encoder_decoder", "pruned_heads")
"""Of the same config: no decoder of these families as soon as they say something."""
STAMP = ("transformers_version", "unsloth_version", "peft_version", "trl_version", "axolotl_version", "mlx_version")
"""By which tools say that they wrote the file."""
EXACT = 2**53
"""Ints up to it are floats too."""
LARGEST = 2**31 - 1
"""No size of a model is larger: what is, is damaged."""


class HfFields:
    """Fields of a JSON object, with the file and the place in it for messages. Every method raises ModelError.

    A field that is null counts as absent, except for `optional`.
    """

    def __init__(self, fields: Mapping[str, Any], file: Folder, prefix: str = ""):
        self.fields, self.file, self.prefix = fields, file, prefix
        self.asked: set[str] = set()

    @property
    def model_type(self) -> Any:
        """What the config calls its kind of model; None where it does not say. ModelError where it is no name."""
        found = self.fields.get("model_type")
        if not isinstance(found, str | None):
            raise self.fail("model_type", f"should be a name, not {found!r:.80}")
        return found

    def fail(self, name: str, says: str) -> ModelError:
        """The error that names the file and the field."""
        return ModelError(f"{self.file}: {self.prefix}{name} {says}")

    def raw(self, name: str) -> Any:
        """The value as it stands in the file, or None; the field counts as read."""
        self.asked.add(name)
        return self.fields.get(name)

    def read(self, name: str, kind: type, default: Any = None) -> Any:
        """A value of type `kind` (int, float, bool, str); numbers are positive, ints may stand for floats."""
        value: Any = self.raw(name)
        value = default if value is None else value
        value = float(value) if kind is float and type(value) is int and abs(value) <= EXACT else value
        fits, number = type(value) is kind, kind in (int, float)
        if not fits or (number and not 0 < value < math.inf) or (kind is int and value > LARGEST):
            raise self.fail(name, f"should be a {'positive ' * number}{kind.__name__}, not {value!r:.80}")
        return value

    def optional(self, name: str, kind: type, absent: Any) -> Any:
        """As `read`, but null is None; `absent` (or None) stands for the field that is not there at all."""
        value = self.raw(name) if name in self.fields else absent
        return None if value is None else self.read(name, kind, absent)

    def fixed(self, name: str, *known: Any) -> None:
        """Refuses the field unless it is absent, null or one of the values for which the family computes it."""
        value = self.raw(name)
        if value is not None and value not in known:
            raise self.fail(name, f"= {value!r:.80} is not supported; known is {known[0] if known else None!r}")

    def index(self, name: str, default: int) -> int:
        """An int that may be 0."""
        value = self.raw(name)
        value = default if value is None else value
        if type(value) is not int or not 0 <= value <= LARGEST:
            raise self.fail(name, f"should be an int that is not negative, not {value!r:.80}")
        return value

    def each(self, name: str, known: tuple[Any, ...], layers: int) -> list[Any] | None:
        """A list with one of the `known` values for each layer; None where there is no list."""
        value = self.raw(name)
        fits = isinstance(value, list) and len(value) == layers and all(one in known for one in value)
        if value is not None and not fits:
            listed = ", ".join(map(repr, known))
            raise self.fail(name, f"should list one of {listed} for each of {layers} layers, not {value!r:.200}")
        return value

    def nested(self, name: str) -> "HfFields | None":
        """The fields of an object in a field; close it too."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fail(name, f"should be an object, not {value!r:.80}")
        return HfFields(value, self.file, f"{self.prefix}{name}.")

    def close(self) -> None:
        """Refuses a field that is not null and that nobody asked for."""
        for name, value in self.fields.items():
            if value is not None and name not in self.asked and (self.prefix or not harmless(name, value)):
                what = f"unknown field {self.prefix + name!r} = {value!r:.80}"
                raise ModelError(f"{self.file}: {what}; it may change what the model computes")


def harmless(name: str, value: Any) -> bool:
    """Whether a field that nobody asked for leaves the forward pass as it is."""
    if name == "auto_map":  # code of its own, which may be that of a model
        return isinstance(value, dict) and not any(str(key).startswith("AutoModel") for key in value)
    return name in HARMLESS.split() or name in STAMP or (name in HARMLESS_IF_FALSE and not value)
