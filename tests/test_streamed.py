"""Arrays of committed checkpoints read part by part: the values of any mesh, each verified before its last part."""

import collections
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_checkpoints import META, abstract, files_of, grow, params, placed

from jaxalign.errors import CheckpointError
from jaxalign.storage import checkpoint, pytree, streamed
from jaxalign.storage.checksum import checksum
from jaxalign.storage.streamed import StreamedArrays
from jaxalign.types import Params

LAYERS = 3


def wide(seed: int = 0) -> Params:
    """A stack of layers of 2 MB, which are stored apart."""
    return {"stack": jax.random.normal(jax.random.key(seed), (LAYERS, 512, 1024)), "small": jnp.arange(6.0)}


def stream(path: Path, tree: Params) -> StreamedArrays:
    return checkpoint.stream_policy(path, abstract(tree))[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "policy"
    checkpoint.save_policy(path, placed(wide(), (2, 4)), META)
    return path


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "policy")


@pytest.mark.parametrize("shape", [(4, 2), (1, 8), (1, 1)])
def test_parts_are_those_of_the_array_whatever_the_mesh(tmp_path: Path, shape: tuple[int, int]) -> None:
    checkpoint.save_policy(tmp_path / "policy", placed(params(), shape), META)
    arrays, meta = checkpoint.stream_policy(tmp_path / "policy", abstract(params()))
    assert meta == META
    for name, whole in pytree.named(params()).items():
        for leading in range(max(1, whole.ndim)):
            parts = list(arrays.parts(name, leading))
            expected = np.asarray(whole).reshape(-1, *whole.shape[leading:])
            assert len(parts) == len(expected)
            for part, wanted in zip(parts, expected, strict=True):
                assert part.dtype == whole.dtype
                np.testing.assert_array_equal(part, wanted)


def test_a_tree_comes_whole(saved: Path) -> None:
    tree = stream(saved, wide()).tree(abstract(wide()))
    assert jax.tree.structure(tree) == jax.tree.structure(wide())
    for one, other in zip(jax.tree.leaves(tree), jax.tree.leaves(wide()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("shape", "spec", "chunk"),
    [
        ((3, 512, 1024), ("x", None), (1, 512, 1024)),  # 2 MiB a layer
        ((3, 4096, 1024), ("x", None), (1, 1024, 1024)),  # 16 MiB a layer, on one device, in pieces of 4 MiB
        ((2, 4, 512, 1024), (None, None), (1, 1, 512, 1024)),  # experts of 2 MiB
        ((3, 128, 16), (None, None), (3, 128, 16)),  # small enough for one piece
        ((259, 64), (None, None), (259, 64)),
    ],
)
def test_layers_and_experts_are_stored_apart(
    tmp_path: Path, shape: tuple[int, ...], spec: tuple[str | None, ...], chunk: tuple[int, ...]
) -> None:
    tree = {"stack": jnp.zeros(shape)}
    checkpoint.save_policy(tmp_path / "policy", tree, META)
    array = stream(tmp_path / "policy", tree)._open("stack")
    assert array.chunk_layout.read_chunk.shape == chunk


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_blocks_cover_an_array_once(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), max_size=3)))
    chunk = tuple(data.draw(st.integers(1, size)) for size in shape)
    seen = np.zeros(shape, np.int8)
    for block in streamed.blocks(seen, chunk):
        seen[block] += 1
    assert (seen == 1).all()


def test_blocks_are_of_whole_chunks_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "BLOCK", 64)
    values = np.empty((10, 12), np.float32)
    found = list(streamed.blocks(values, (5, 2)))
    assert found[0] == (slice(0, 5), slice(0, 2))  # 40 bytes; another chunk would be 80
    assert len(found) == 12
    assert next(streamed.blocks(values, (1, 4))) == (slice(0, 1), slice(0, 12))
    assert list(streamed.blocks(values, (20, 20))) == [(slice(0, 10), slice(0, 12))]


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "float16", "bfloat16", "float32", "complex64"])
def test_checksums_of_parts_add_up(dtype: str) -> None:
    raw = np.random.default_rng(0).integers(0, 2, (4, 5, 6))
    x = jnp.asarray(raw.astype(jnp.dtype(dtype)))
    for parts in (x, x.reshape(20, 6), x.reshape(2, 60)):
        size = parts[0].size
        sums = [int(checksum(part, np.uint32(number * size))) for number, part in enumerate(parts)]
        assert sum(sums) % 2**32 == int(checksum(x))


def test_a_place_beyond_32_bits_is_the_place_it_would_have() -> None:
    """The index of a checksum is counted mod 2^32, in one piece or in parts."""
    values = np.arange(8, dtype=np.float32)
    assert list(streamed.checksums(values, 2**32 + 5)) == list(streamed.checksums(values, 5))
    assert list(streamed.checksums(values, 5)) != list(streamed.checksums(values, 6))


# --------------------------------------------------------------------------------------------------------------
# Damage


def data_file(path: Path) -> Path:
    """The file that holds the values."""
    return max(files_of(path), key=lambda file: file.stat().st_size)


def count_until_damage(parts: Iterator[np.ndarray]) -> int:
    given = itertools.count()
    with pytest.raises(pytree.DamagedError, match="array stack"):
        collections.deque((next(given) for _ in parts), maxlen=0)
    return next(given)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_found_before_the_last_part(copied: Path, place: float) -> None:
    file = data_file(copied)
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    assert count_until_damage(stream(copied, wide()).parts("stack", 1)) == LAYERS - 1


def test_swapped_layers_are_found(copied: Path) -> None:
    """The same values in another order: equal in every sum that does not know of places."""
    arrays = stream(copied, wide())
    layers = [layer.tobytes() for layer in arrays.parts("stack", 1)]
    assert len(set(layers)) == LAYERS
    swapped = wide()
    swapped["stack"] = swapped["stack"][::-1]
    shutil.rmtree(copied)
    checkpoint.save_policy(copied, swapped, META)
    other = StreamedArrays(arrays.path, arrays.described)
    assert count_until_damage(other.parts("stack", 1)) == LAYERS - 1


def test_a_lost_file_is_named(copied: Path) -> None:
    data_file(copied).unlink()
    assert count_until_damage(stream(copied, wide()).parts("stack", 1)) == 0


def test_a_database_of_other_arrays_is_refused(copied: Path, tmp_path: Path) -> None:
    checkpoint.save_policy(tmp_path / "other", {**wide(), "stack": wide()["stack"][:2]}, META)
    shutil.rmtree(copied / "state")
    shutil.copytree(tmp_path / "other" / "state", copied / "state")
    with pytest.raises(pytree.DamagedError, match=r"array stack is float32\[2, 512, 1024\] on the disk"):
        next(stream(copied, wide()).parts("stack", 1))


def test_another_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    checkpoint.save_policy(tmp_path / "policy", params(), META)
    with pytest.raises(CheckpointError, match=r"array embed is float32\[64, 32\], not float32\[65, 32\]"):
        stream(tmp_path / "policy", grow(params()))
    with pytest.raises(CheckpointError, match="no policy is committed"):
        stream(tmp_path / "elsewhere", params())


def test_a_forged_document_is_found(copied: Path) -> None:
    file = copied / "integrity" / "data.json"
    file.write_text(file.read_text().replace("512", "513"))
    with pytest.raises(pytree.DamagedError, match="damaged"):
        stream(copied, wide())
