"""JSON of one spelling, and JSON that holds a checksum of itself: how a run directory writes its documents."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def to_json(value: object) -> bytes:
    """Keys sorted, ASCII only (text may hold lone surrogates), one final newline."""
    return (json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(content).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, and under "seal" the SHA-256 of its canonical JSON."""
    return {**content, "seal": sha256(to_json(content))}


def unsealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """What was sealed. Raises ValueError when that is not what the document holds now, TypeError for no mapping."""
    content = {**document}
    if content.pop("seal", None) != sha256(to_json(content)):
        raise ValueError("its seal does not fit")
    return content
