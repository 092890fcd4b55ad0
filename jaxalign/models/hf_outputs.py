"""What Hugging Face files of a sequence classifier say otherwise than those of a language model.

The architecture's name ends in ForSequenceClassification, config.json names the outputs, and the tensor `score.weight`
[o d] scores the last token: there is no matrix that scores the vocabulary.
"""

from collections.abc import Sequence
from typing import Any

from jaxalign.formats.weights import Tensor
from jaxalign.models.hf_fields import HfFields

KIND, PLAIN = "ForSequenceClassification", "ForCausalLM"
SCORE = Tensor(("score",), "score.weight", None)


def is_classifier(fields: HfFields) -> bool:
    """Whether config.json is that of a sequence classifier."""
    named = fields.raw("architectures")
    return isinstance(named, list) and bool(named) and str(named[0]).endswith(KIND)


def names_of(fields: HfFields) -> tuple[str, ...]:
    """Names of the outputs of a sequence classifier, in their order; none of other models.

    ModelError for names that are not numbered from 0.
    """
    if not is_classifier(fields):
        return ()
    labels = fields.raw("id2label")
    for name in ("label2id", "num_labels", "problem_type"):  # say the same, or what a loss of theirs would be
        fields.raw(name)
    if labels is None:  # transformers leaves its default out, which is two
        return plain_names(2)
    if not isinstance(labels, dict) or not labels or sorted(labels) != sorted(map(str, range(len(labels)))):
        raise fields.fail("id2label", f"should name outputs by their numbers from 0, not {labels!r:.200}")
    return tuple(str(labels[str(index)]) for index in range(len(labels)))


def plain_names(count: int) -> tuple[str, ...]:
    """As transformers calls outputs that nobody named."""
    return tuple(f"LABEL_{index}" for index in range(count))


def scored(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The tensors of a decoder whose last token is scored."""
    return (*(tensor for tensor in tensors if tensor.path != ("head",)), SCORE)


def named(fields: dict[str, Any], outputs: tuple[str, ...]) -> dict[str, Any]:
    """The config.json of a decoder with such outputs."""
    return {
        **fields,
        "architectures": [name.replace(PLAIN, KIND) for name in fields["architectures"]],
        "id2label": {str(index): name for index, name in enumerate(outputs)},
        "label2id": {name: index for index, name in enumerate(outputs)},
    }
