"""What is asked again, and after how long: exponential back-off with full jitter, and what the server asks for.

    wait before attempt k + 1 = Retry-After + U(0, min(longest, first · 2^(k − 1)))

Full jitter (M. Brooker 2015, "Exponential backoff and jitter") keeps clients that failed together from coming back
together; Retry-After (RFC 9110, 10.2.3) is seconds, or a date.
"""

import email.utils
import math
from collections.abc import Iterable
from dataclasses import dataclass

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that another attempt may not meet again."""

OF_THIS_REQUEST = frozenset({400, 413, 414, 422})
"""Statuses that say that this request will never be answered; others may be."""


@dataclass(frozen=True)
class Retries:
    """How often and how patiently a request is tried."""

    attempts: int = 6
    """most times that a request is sent"""
    first_seconds: float = 1.0
    """longest wait after the first failure; doubles with each"""
    longest_seconds: float = 60.0
    """longest wait at all, but for what the server asks for"""
    patience_seconds: float = 600.0
    """longest wait that a server may ask for; where it asks for more, the request is given up"""

    def problems(self) -> Iterable[str]:
        if self.attempts < 1:
            yield f"attempts must be at least 1, got {self.attempts}"
        for name, value in (
            ("first_seconds", self.first_seconds),
            ("longest_seconds", self.longest_seconds),
            ("patience_seconds", self.patience_seconds),
        ):
            if not 0 <= value < math.inf:
                yield f"{name} must be at least 0 and finite, got {value}"

    def wait(self, failed: int, asked: float, uniform: float) -> float | None:
        """Seconds before the next attempt when `failed` have failed and the server asked for `asked` seconds; None:
        there is no next. `uniform` is a draw from [0, 1)."""
        if failed >= self.attempts or asked > self.patience_seconds:
            return None
        return asked + uniform * min(self.longest_seconds, self.first_seconds * 2.0 ** min(failed - 1, 63))


def retry_after(header: str, now: float) -> float:
    """Seconds that a Retry-After header asks for, at `now` (s since 1970); 0 for what is not understood."""
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0
