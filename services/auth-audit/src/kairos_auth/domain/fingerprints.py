"""Keyed digests of secrets, so that a copy of the database is no list of credentials."""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Literal

Purpose = Literal["api_key", "session", "throttle"]


@dataclass(frozen=True)
class Fingerprints:
    """HMAC-SHA-256 under a pepper that is kept outside the database."""

    pepper: bytes = field(repr=False)

    def of(self, purpose: Purpose, secret: str) -> str:
        return hmac.new(self.pepper, f"{purpose}\n{secret}".encode(), hashlib.sha256).hexdigest()
