"""Rules about who may be what in an organisation."""

import re
from collections.abc import Collection
from uuid import UUID

from kairos_auth.domain.errors import LastAdmin

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,190}")


def normal_email(text: str) -> str:
    """The address as it is stored and looked up. Raises ValueError when it is none."""
    email = text.strip().casefold()
    if not _EMAIL.fullmatch(email):
        raise ValueError("not an e-mail address")
    return email


def refuse_losing_last_admin(admins: Collection[UUID], leaving: UUID) -> None:
    """Raise LastAdmin when nobody of `admins` would remain. The caller holds their rows locked."""
    if set(admins) == {leaving}:
        raise LastAdmin
