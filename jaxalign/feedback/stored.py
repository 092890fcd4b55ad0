"""Where a run keeps its tokenised preference data, and under which name: one that stands for all that decides them."""

import hashlib
import json
import pathlib
import sys

import jax

from jaxalign.config.load import components
from jaxalign.data.comparisons.source import Comparisons
from jaxalign.data.comparisons.store import Store, stored
from jaxalign.errors import DataError
from jaxalign.models.model import Conversation
from jaxalign.progress import Progress, Unseen
from jaxalign.storage import inputs
from jaxalign.text.chat import Chat
from jaxalign.text.pairs import Encode, Room

LAYOUT = 2
"""Version of the stores and of what is made into them; part of their names."""


def store_of(source: Comparisons, chat: Conversation, room: Room, cache: pathlib.Path, field: str) -> Store:
    """The comparisons of `source`, tokenised below `cache` unless they are there; interrupted, it goes on from there.

    `field` of the experiment is what errors name. What was skipped, left out or cut is told at every launch. DataError
    naming bad rows, or that nothing is left to train on.
    """
    if not isinstance(chat, Chat):
        raise DataError(f"{field}: the policy is a table: it reads no text")

    def telling(total: int) -> Progress | Unseen:
        return Progress(f"{field}: tokenising", total, "comparisons") if jax.process_index() == 0 else Unseen()

    store = stored(cache / f"pairs-{key(source, chat, room)}", source, Encode(chat, room), field, telling)
    if jax.process_index() == 0 and (found := told(store)):
        print(f"{field}: {found}", file=sys.stderr, flush=True)
    return store


def told(store: Store) -> str:
    """What is not trained on as it was said: rows that were skipped, pairs that were left out or cut; empty: all is."""
    counts = {
        f"of {store.rows['read']} rows skipped as bad ones": store.rows["skipped"],
        **{f"left out with {reason}": count for reason, count in store.left_out.items()},
        **{f"with a long {part} that was cut": count for part, count in store.cut.items()},
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def key(source: Comparisons, chat: Chat, room: Room) -> str:
    """Digest of the settings, the bytes of the files that components say they read, the tokenizer, the template with
    its date, and the room."""
    files = [(each.field, each.name, each.fingerprint) for each in inputs.of_components(components(source))]
    parts = [LAYOUT, repr(source), files, sorted(chat.fingerprints.items()), str(chat.date), repr(room)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
