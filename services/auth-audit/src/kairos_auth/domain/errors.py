"""What a use case can refuse. Entry points map each to an HTTP answer."""


class AuthError(Exception):
    """Base of every refusal; nothing was changed unless a subclass says so."""


class BadCredentials(AuthError):  # noqa: N818 - reads as the fact it states
    """E-mail or password is wrong, or nobody has them; the caller can't tell which. It was counted."""


class TooManyAttempts(AuthError):  # noqa: N818 - reads as the fact it states
    """Sign-in is paused for this account or address; try again after `retry_after` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} s")
        self.retry_after = retry_after


class Busy(AuthError):  # noqa: N818 - reads as the fact it states
    """More passwords wait to be checked than this process accepts; try again shortly."""


class WeakPassword(AuthError):  # noqa: N818 - reads as the fact it states
    """The password is too short, too common or made of the member's own name; choose another."""


class NotFound(AuthError):  # noqa: N818 - reads as the fact it states
    """There is no such thing in this organisation."""


class AlreadyExists(AuthError):  # noqa: N818 - reads as the fact it states
    """Something with this name or address exists already."""


class LastAdmin(AuthError):  # noqa: N818 - reads as the fact it states
    """An organisation keeps at least one admin: make another one first."""


class ScopeExceedsRole(AuthError):  # noqa: N818 - reads as the fact it states
    """A key can't do more than the member who makes it."""


class MemberRequired(AuthError):  # noqa: N818 - reads as the fact it states
    """Only a signed-in member can do this, not an API key."""


class UnknownService(AuthError):  # noqa: N818 - reads as the fact it states
    """The service name or its secret is wrong; the caller can't tell which."""


class BrokenChain(AuthError):  # noqa: N818 - reads as the fact it states
    """An audit stream does not chain at this place; it is not signed until an operator has looked at it."""

    def __init__(self, stream: str, seq: int) -> None:
        super().__init__(f"{stream} at {seq}")
        self.stream = stream
        self.seq = seq
