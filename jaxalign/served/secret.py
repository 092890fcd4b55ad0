"""API keys: sent, and never shown."""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Secret:
    """A key, or "" where there is none. What prints it, prints nothing of it."""

    _value: str = field(repr=False)

    @property
    def sendable(self) -> bool:
        """Whether it can stand in a header."""
        return self._value.isascii() and self._value.isprintable() and " " not in self._value

    @property
    def headers(self) -> dict[str, str]:
        """What a request carries."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def without(self, body: bytes) -> bytes:
        """What a server sent, less the key: some write it into their error messages, and a model may repeat it."""
        for spelled in {self._value, json.dumps(self._value)[1:-1]} - {""}:
            body = body.replace(spelled.encode(), b"[key]")
        return body

    def __str__(self) -> str:
        return "[key]"

    def __getstate__(self) -> None:
        raise TypeError("keys are not pickled")
