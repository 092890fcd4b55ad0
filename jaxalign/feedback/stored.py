"""Where a run keeps its tokenised preference data, and under which name: one that stands for all that decides them."""

import hashlib
import json
import pathlib

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

LAYOUT = 1
"""Version of the stores and of what is made into them; part of their names."""


def store_of(source: Comparisons, chat: Conversation, room: Room, cache: pathlib.Path, field: str) -> Store:
    """The comparisons of `source`, tokenised below `cache` unless they are there; interrupted, it goes on from there.

    `field` of the experiment is what errors name. DataError naming bad rows, or that nothing is left to train on.
    """
    if not isinstance(chat, Chat):
        raise DataError(f"{field}: the policy is a table: it reads no text")

    def telling(total: int) -> Progress | Unseen:
        return Progress(f"{field}: tokenising", total, "comparisons") if jax.process_index() == 0 else Unseen()

    return stored(cache / f"pairs-{key(source, chat, room)}", source, Encode(chat, room), field, telling)


def key(source: Comparisons, chat: Chat, room: Room) -> str:
    """Digest of the settings, the bytes of the files that components say they read, the tokenizer, the template with
    its date, and the room."""
    files = [(each.field, each.name, each.fingerprint) for each in inputs.of_components(components(source))]
    parts = [LAYOUT, repr(source), files, sorted(chat.fingerprints.items()), str(chat.date), repr(room)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
