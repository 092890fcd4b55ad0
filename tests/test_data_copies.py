"""ArrayRecord copies of prompt files, whole, damaged or made twice, and TFDS datasets that are read as they are."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from made_prompts import contents, opened, written

from jaxalign.data import tfds_store
from jaxalign.data.prompts import BuiltinPrompts, TfdsPrompts
from jaxalign.errors import DataError
from jaxalign.types import Prompt


def test_the_second_of_two_writers_keeps_the_first_copy(tmp_path: pathlib.Path):
    directory = tmp_path / "cache" / "prompts-x"

    def slow_rows():
        yield Prompt("a", ({"role": "user", "content": "Why?"},))
        tfds_store.write([Prompt("b", ({"role": "user", "content": "How?"},))], directory)  # another, meanwhile

    tfds_store.write(slow_rows(), directory)
    assert [tfds_store.read_prompt(row).id for row in tfds_store.records(directory, tfds_store.SPLIT, "id")] == ["b"]
    assert list((tmp_path / "cache").iterdir()) == [directory], "nothing incomplete is left"


def test_processes_converting_at_once_all_end_well(tmp_path: pathlib.Path):
    program = (
        "import pathlib, sys, time\n"
        "from jaxalign.data.prompts import BuiltinPrompts\n"
        "import tensorflow_datasets\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "(folder / f'ready-{sys.argv[2]}').touch()\n"
        "while len(list(folder.glob('ready-*'))) < 2: time.sleep(0.001)\n"
        "print(BuiltinPrompts().open(folder / 'cache').fingerprint)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number)], stdout=subprocess.PIPE, text=True) for number in range(2)]
    outputs = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs == [BuiltinPrompts().open(tmp_path / "cache").fingerprint] * 2
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_disk_that_refuses_is_reported(tmp_path: pathlib.Path):
    path = written(tmp_path, '{"prompt": "Why?"}')
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cache/prompts-.*cannot be stored"):
        opened(path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone", "no info"])
def test_a_damaged_copy_is_reported_and_named(tmp_path: pathlib.Path, damage: str):
    path = written(tmp_path, *(json.dumps({"prompt": f"Question number {number}?"}) for number in range(30)))
    opened(path)
    (directory,) = (tmp_path / "cache").iterdir()
    (shard,) = directory.glob("*array_record*")
    content = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        place = len(content) // 2
        shard.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
    elif damage == "gone":
        shard.unlink()
    else:
        (directory / "dataset_info.json").unlink()
    with pytest.raises(DataError) as caught:
        opened(path)
    assert str(directory) in str(caught.value)
    assert "delete it" in str(caught.value)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A dataset of two splits that TFDS's own builder wrote."""
    folder = tmp_path_factory.mktemp("tfds")
    features = tfds.features.FeaturesDict(
        {"question": tfds.features.Text(), "spare": tfds.features.Text(), "stars": np.int32}
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="quiz", version=tfds.core.Version("1.0.0"), data_dir=str(folder), module_name="quiz"
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=features), max_examples_per_shard=8, file_format="array_record"
    )
    rows = [
        {"question": f"Wozu {number}? ß", "spare": "" if number == 3 else "x", "stars": number} for number in range(20)
    ]
    writer.initialize_splits(["train", "test"])
    writer.add_examples({"train": rows, "test": rows[:5]})
    writer.close_all()
    return str(folder)


def test_any_tfds_dataset_can_be_read(dataset: str, tmp_path: pathlib.Path):
    prompts = TfdsPrompts(dataset, text_field="question").open(tmp_path)
    assert [prompt.text for prompt in contents(prompts)] == [f"Wozu {number}? ß" for number in range(20)]
    assert prompts[4].id == "train:4"
    assert len(TfdsPrompts(dataset, "test", "question").open(tmp_path)) == 5
    part = TfdsPrompts(dataset, "train[50%:]", "question", limit=3).open(tmp_path)
    assert [prompt.text for prompt in contents(part)] == [prompts[index].text for index in (10, 11, 12)]
    assert list(tmp_path.iterdir()) == [], "it is read where it is"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_field": "prompt"}, r"prompt: no such text feature among \['question', 'spare'\]"),
        ({"text_field": "stars"}, "stars: no such text feature"),
        ({"text_field": "spare"}, "split 'train': record 3:spare: empty"),
        ({"text_field": "question", "split": "dev"}, "split 'dev' cannot be opened"),
    ],
)
def test_what_a_tfds_dataset_lacks_is_named(dataset: str, tmp_path: pathlib.Path, options: dict, message: str):
    with pytest.raises(DataError, match=message) as caught:
        TfdsPrompts(dataset, **options).open(tmp_path)
    assert dataset in str(caught.value)


def test_a_folder_that_is_no_dataset(tmp_path: pathlib.Path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=f"{directory}: no TFDS dataset"):
            TfdsPrompts(str(directory)).open(tmp_path)
