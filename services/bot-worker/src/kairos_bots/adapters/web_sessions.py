"""Signed web chat sessions: any replica can check one without asking anybody."""

import base64
import binascii
import hmac
import json
from datetime import UTC, datetime
from uuid import UUID

from kairos_bots.application.web_chat import WebSession

MAX_TOKEN = 512


class HmacSessionSigner:
    """`<payload>.<mac>`, both URL-safe base64 without padding; the mac is HMAC-SHA-256."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, session: WebSession) -> str:
        payload = {
            "bot": str(session.bot_id),
            "chat": session.chat_id,
            "exp": int(session.expires_at.timestamp()),
        }
        encoded = _encode(json.dumps(payload, separators=(",", ":")).encode())
        return f"{encoded}.{self._mac(encoded)}"

    def read(self, token: str, now: datetime) -> WebSession | None:
        encoded, _, mac = token.partition(".")
        if len(token) > MAX_TOKEN or not hmac.compare_digest(self._mac(encoded).encode(), mac.encode()):
            return None
        try:
            payload = json.loads(_decode(encoded))
            session = WebSession(
                bot_id=UUID(payload["bot"]),
                chat_id=str(payload["chat"]),
                expires_at=datetime.fromtimestamp(payload["exp"], UTC),
            )
        except (binascii.Error, ValueError, KeyError, TypeError):
            return None
        return session if session.expires_at > now else None

    def _mac(self, encoded: str) -> str:
        return _encode(hmac.digest(self._key, encoded.encode(), "sha256"))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
