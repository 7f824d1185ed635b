"""Which passwords are good enough: long and not guessable; no rules about character classes."""

import secrets

from kairos_auth.domain.errors import WeakPassword

SHORTEST = 12
LONGEST = 256
_FEWEST_DIFFERENT = 5
_ONE_TIME_BYTES = 18

# The most frequent leaked passwords that are long enough to pass the length rule.
COMMON = frozenset(
    {
        "123456789012",
        "1234567890123",
        "1q2w3e4r5t6y",
        "1qaz2wsx3edc",
        "abcdefghijkl",
        "adminadminadmin",
        "administrator",
        "changemechangeme",
        "correcthorsebatterystaple",
        "iloveyouiloveyou",
        "letmeinletmein",
        "passw0rdpassw0rd",
        "password1234",
        "password12345",
        "password123456",
        "passwordpassword",
        "qazwsxedcrfv",
        "qwerty123456",
        "qwertyuiop12",
        "qwertyuiop123",
        "qwertyuiopasdf",
        "qwertyuiopasdfghjkl",
        "unbelievable",
        "welcome12345",
    }
)


def refuse_weak(password: str, *, email: str) -> None:
    """Raise WeakPassword unless the password is good enough for this member."""
    folded = password.casefold()
    name = email.partition("@")[0].casefold()
    weak = (
        not SHORTEST <= len(password) <= LONGEST
        or folded in COMMON
        or len(set(folded)) < _FEWEST_DIFFERENT
        or (len(name) >= _FEWEST_DIFFERENT and folded.replace(name, "") != folded)
    )
    if weak:
        raise WeakPassword(f"use {SHORTEST} to {LONGEST} characters that are not easy to guess")


def one_time_password() -> str:
    """A random password for a first sign-in; it is shown once and must be changed."""
    return secrets.token_urlsafe(_ONE_TIME_BYTES)
