"""A store of tokenised comparisons is built in parts: each is committed, and what is committed is not made again.

prompts-00000.array_record    ids of the prompts of a part, int32, once each
answers-00000.array_record    ids of the answers of a comparison, int32, one behind the other
columns-00000.npz             what is known of each comparison without reading its ids
part-00000.json               what was left out and cut; when it is there, the part is complete
<column>.npy, store.json      of all parts; when the last of these is there, the store is complete
groups.npy                    of a mixture with shares: the comparison that each group of an epoch is
"""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from jaxalign.data.comparisons.by_prompt import said
from jaxalign.data.comparisons.digests import different, digest
from jaxalign.data.comparisons.mixture import parts
from jaxalign.data.comparisons.record import Comparison
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.tokenised import Encoder, Ids, tokenised
from jaxalign.data.tables.strict import Tally
from jaxalign.errors import DataError, Interrupted
from jaxalign.hosts import stop
from jaxalign.progress import Progress, Unseen

PART = 1 << 14
"""Comparisons of a part: so many are made again after an interruption, at most."""
SEEN = 256
"""Comparisons whose prompts are kept as they are, for a person to look at."""
INFO = "store.json"

BLOCK = 1 << 10
"""Comparisons of which what is known is kept as Python's own values at once."""

Columns = dict[str, np.ndarray]
Telling = Callable[[int], Progress | Unseen]
"""(how many comparisons there are) → progress in them."""


@contextlib.contextmanager
def exclusive(directory: pathlib.Path) -> Iterator[None]:
    """Waits until no other process of this host builds the store `directory`."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f"{directory.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(
    directory: pathlib.Path, source: Comparisons, encode: Encoder, origin: str, telling: Telling, workers: int
) -> None:
    """Makes the store, from wherever an earlier attempt was interrupted.

    DataError for bad rows, before any is made; Interrupted when this process is asked to stop.
    """
    directory.mkdir(exist_ok=True)
    surveyed = Survey(source, origin)
    done = len(list(directory.glob("part-*.json")))
    with telling(surveyed.total) as progress:
        left = itertools.islice(_all(source, Tally()), done * PART, None)
        made = tokenised(left, encode, surveyed.total - done * PART, workers)
        with contextlib.closing(made):
            for number in range(done, -(-surveyed.total // PART)):
                _part(directory, number, itertools.islice(made, PART), surveyed, progress)
    _finish(directory, surveyed)


class Survey:
    """What a first reading tells: that all rows can be read, how many there are, and what they say."""

    def __init__(self, source: Comparisons, origin: str):
        self.tally, self.total, self.shares = Tally(), 0, [share for share, _ in parts(source)]
        self.ends = list[int]()
        """where each source of a mixture ends among all comparisons"""
        self.seen = list[dict[str, Any]]()
        whole, annotators, answers = hashlib.sha256(), None, None
        for _, part in parts(source):
            for each in part.read(self.tally):
                shape = (len(each.votes), len(each.answers))
                annotators, answers = (annotators, answers) if self.total else shape
                if shape != (annotators, answers):
                    raise DataError(
                        f"{origin}: {each.place}: {shape[1]} answers and {shape[0]} votes, where others have {answers} "
                        f"and {annotators}"
                    )
                facts = (each.prefer, each.votes, each.scores, each.margin, each.weight)
                whole.update(json.dumps([said(each.prompt), each.answers, facts]).encode())
                self.total += 1
            self.ends.append(self.total)
        if self.total == 0:
            raise DataError(f"{origin}: no comparisons")
        self.fingerprint = whole.hexdigest()


def _all(source: Comparisons, tally: Tally) -> Iterator[Comparison]:
    return itertools.chain.from_iterable(part.read(tally) for _, part in parts(source))


def _part(
    directory: pathlib.Path,
    number: int,
    made: Iterable[tuple[Comparison, Ids | str]],
    surveyed: Survey,
    progress: Progress | Unseen,
) -> None:
    """Writes and commits one part."""
    left_out, cut, rows = Counter[str](), Counter[str](), list[dict[str, Any]]()
    blocks, seen, prompts = list[Columns](), list[dict[str, Any]](), dict[bytes, int]()
    with contextlib.ExitStack() as files:
        put_prompt, put_answers = (
            files.enter_context(_records(directory / f"{name}-{number:05}.array_record"))
            for name in ("prompts", "answers")
        )
        for index, (each, ids) in enumerate(made, number * PART):
            progress(index + 1)
            if stop.requested():
                raise Interrupted(
                    f"{directory}: stopped after {number * PART} comparisons; the same command continues there"
                )
            if isinstance(ids, str):
                left_out[ids] += 1
                continue
            cut.update(ids.cut)
            content = ids.prompt.tobytes()
            if content not in prompts:
                put_prompt(content)
            put_answers(b"".join(answer.tobytes() for answer in ids.answers))
            if number == 0 and len(seen) < SEEN:
                seen.append({"id": each.prompt.id, "messages": each.prompt.messages, "tools": each.prompt.tools})
            rows.append(
                {
                    "prompt_key": digest(said(each.prompt)),
                    "prompt_record": prompts.setdefault(content, len(prompts)),
                    "prompt_lengths": len(ids.prompt),
                    "lengths": [len(answer) for answer in ids.answers],
                    "answer_keys": [digest(content + answer.tobytes(), signed=True) for answer in ids.answers],
                    "prefer": each.prefer,
                    "votes": [np.nan if vote is None else vote for vote in each.votes],
                    "scores": each.scores or [np.nan] * len(each.answers),
                    "margin": np.nan if each.margin is None else each.margin,
                    "weight": each.weight,
                    "source": int(np.searchsorted(surveyed.ends, index, side="right")),
                }
            )
            if len(rows) == BLOCK:
                blocks.append(_columns(rows))
                rows.clear()
    blocks += [_columns(rows)] if rows else []
    known: Columns = {name: np.concatenate([each[name] for each in blocks]) for name in COLUMNS} if blocks else {}
    with open(directory / f"columns-{number:05}.npz", "wb") as file:
        np.savez(file, allow_pickle=False, **known)
        _synced(file)
    count = sum(len(each["weight"]) for each in blocks)
    info = {"prompts": len(prompts), "rows": count, "left_out": left_out, "cut": cut, "seen": seen}
    _write_json(directory / f"part-{number:05}.json", info)


def _columns(rows: list[dict[str, Any]]) -> Columns:
    """What is known of the rows, some 60 bytes each: as Python's own values it is ten times as much."""
    return {name: np.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()}


COLUMNS: dict[str, type] = {
    "prompt_key": np.uint64,
    "prompt_record": np.int64,
    "prompt_lengths": np.int32,
    "lengths": np.int32,
    "answer_keys": np.int64,
    "prefer": np.float32,
    "votes": np.float32,
    "scores": np.float32,
    "margin": np.float32,
    "weight": np.float32,
    "source": np.int32,
}


def _finish(directory: pathlib.Path, surveyed: Survey) -> None:
    """Joins the columns of all parts, and commits the store."""
    infos = [json.loads(path.read_bytes()) for path in sorted(directory.glob("part-*.json"))]
    paths = sorted(directory.glob("columns-*.npz"))
    filled = [number for number, info in enumerate(infos) if info["rows"]]
    rows, before = sum(info["rows"] for info in infos), np.cumsum([0, *(info["prompts"] for info in infos)])
    given = dict.fromkeys(COLUMNS, True)
    for name, kind in COLUMNS.items():
        written = 0
        for number in filled:
            with np.load(paths[number]) as columns:
                column = columns[name]
            if written == 0:
                whole = np.lib.format.open_memmap(directory / f"{name}.npy", "w+", kind, (rows, *column.shape[1:]))
            whole[written : written + len(column)] = column + before[number] if name == "prompt_record" else column
            written += len(column)
            given[name] = given[name] and bool(np.isfinite(column).all())
    mixed = bool(rows) and surveyed.shares[0] is not None
    if mixed:
        np.save(directory / "groups.npy", _mixed(np.load(directory / "source.npy"), surveyed.shares))
    left_out, cut = (sum((Counter(info[name]) for info in infos), Counter()) for name in ("left_out", "cut"))
    info = {
        "fingerprint": surveyed.fingerprint,
        "rows": {"read": surveyed.tally.rows, "skipped": surveyed.tally.skipped, "reasons": surveyed.tally.shown},
        "comparisons": surveyed.total,
        "left_out": left_out,
        "cut": cut,
        "seen": infos[0]["seen"],
        "filled": filled,
        "mixed": mixed,
        # of what a loss reads of one group it reads of every group
        "given": [name for name, everywhere in given.items() if everywhere],
        "prompts": different(np.load(directory / "prompt_key.npy", mmap_mode="r")) if rows else 0,
    }
    _write_json(directory / INFO, info)
    for path in paths:
        path.unlink()


def _mixed(source: np.ndarray, shares: list[float | None]) -> np.ndarray:
    """The comparison that each group of an epoch is: every source in its share, the fullest one once."""
    members = [np.flatnonzero(source == number) for number in range(len(shares))]
    held = [(share, found) for share, found in zip(shares, members, strict=True) if share and len(found)]
    each = max(len(found) / share for share, found in held)
    wanted = [np.arange(round(each * share)) % len(found) for share, found in held]
    return np.concatenate([found[which] for which, (_, found) in zip(wanted, held, strict=True)])


@contextlib.contextmanager
def _records(path: pathlib.Path) -> Iterator[Callable[[bytes], Any]]:
    """A file of records, of which each can be read alone."""
    from array_record.python.array_record_module import ArrayRecordWriter

    try:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            yield writer.write
        finally:
            writer.close()
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # the writer's, on a full disk for example
        raise DataError(f"{path}: cannot be written: {error}") from error


def _write_json(path: pathlib.Path, content: Any) -> None:
    draft = path.with_suffix(".draft")
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(content, file)
        _synced(file)
    os.replace(draft, path)


def _synced(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
