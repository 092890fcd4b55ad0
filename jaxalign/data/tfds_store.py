"""Prompts as a TFDS dataset of ArrayRecord files: written whole or not at all, read by index.

Needs neither TensorFlow nor a network.
"""

import os
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxalign.errors import DataError
from jaxalign.types import Prompt

# TFDS takes a good part of a second to import, so only the functions that use it do.

SPLIT = "prompts"
"""The one split of a dataset that `write` makes."""


def write(prompts: Iterable[Prompt], directory: pathlib.Path) -> None:
    """Stores prompts as the dataset `directory`, in their order.

    The directory gets its name only when it is complete. Where another process was first, its directory stays: names
    are expected to stand for content. DataError when the disk refuses; errors of `prompts` pass through.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="incomplete-", dir=directory.parent) as parent:
            made = pathlib.Path(parent) / "dataset"
            made.mkdir()
            _write(prompts, made)
            try:
                made.rename(directory)
            except OSError:
                if not directory.is_dir():
                    raise
    except (OSError, RuntimeError) as error:  # RuntimeError: the ArrayRecord writer's, on a full disk for example
        raise DataError(f"{directory}: prompts cannot be stored: {error}") from error


def read_prompt(record: Any) -> Prompt:
    """The prompt in a record of a dataset that `write` made."""
    messages = zip(record["messages"]["role"], record["messages"]["content"], strict=True)
    return Prompt(
        record["id"].decode(),
        tuple({"role": role.decode(), "content": content.decode()} for role, content in messages),
        record["tools"].decode(),
    )


def records(directory: pathlib.Path, split: str, text_field: str) -> Sequence[Any]:
    """Records of a split by index, as TFDS decodes them (text is bytes).

    DataError unless the dataset can be opened, has the split and has `text_field` as a text feature.
    """
    import tensorflow_datasets as tfds

    features, found = opened(directory, split)
    if not isinstance(features.get(text_field), tfds.features.Text):
        texts = [name for name, feature in sorted(features.items()) if isinstance(feature, tfds.features.Text)]
        raise DataError(f"{directory}: {text_field}: no such text feature among {texts} (split {split!r})")
    return found


def opened(directory: pathlib.Path, split: str) -> tuple[dict[str, Any], Sequence[Any]]:
    """The features of a dataset by name, and the records of a split by index. DataError unless both can be opened."""
    import tensorflow_datasets as tfds

    if not (directory / "dataset_info.json").is_file():
        raise DataError(f"{directory}: no TFDS dataset (no dataset_info.json there)")
    try:
        builder = tfds.builder_from_directory(directory)
        features, splits = dict(builder.info.features.items()), sorted(builder.info.splits)
    except Exception as error:  # whatever its parsers of JSON and protos raise
        raise DataError(f"{directory}: cannot be opened: {error}") from error
    try:
        return features, builder.as_data_source(split)
    except Exception as error:  # of the names of splits, too
        raise DataError(f"{directory}: split {split!r} cannot be opened (splits: {splits}): {error}") from error


def record_lists(features: Mapping[str, Any]) -> set[str]:
    """Names of the features that are lists of records; TFDS decodes such a one to a record of lists."""
    import tensorflow_datasets as tfds

    return {
        name
        for name, feature in features.items()
        if isinstance(feature, tfds.features.Sequence) and isinstance(feature.feature, tfds.features.FeaturesDict)
    }


def _write(prompts: Iterable[Prompt], directory: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    features = {"id": text, "messages": tfds.features.Sequence({"role": text, "content": text}), "tools": text}
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="prompts", version=tfds.core.Version("1.0.0"), data_dir=os.fspath(directory), module_name=__name__
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=sys.maxsize, file_format="array_record")
    writer.initialize_splits([SPLIT])
    try:
        rows = ({"id": prompt.id, "messages": prompt.messages, "tools": prompt.tools} for prompt in prompts)
        writer.add_examples({SPLIT: rows})
    finally:
        writer.close_all()
