"""What outsiders import to work with a Kairos installation."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kairos_sdk.client import Client, KairosError, Unreachable
    from kairos_sdk.profile import Profile, ProfileMissing, ProfileUnreadable, load, save

__all__ = [
    "Client",
    "KairosError",
    "Profile",
    "ProfileMissing",
    "ProfileUnreadable",
    "Unreachable",
    "load",
    "save",
]
_CLIENT = frozenset({"Client", "KairosError", "Unreachable"})


def __getattr__(name: str) -> object:
    # Imported at first use, so that `kairos --help` does not wait for an HTTP client.
    if name not in __all__:
        raise AttributeError(f"module 'kairos_sdk' has no attribute {name!r}")
    module = import_module("kairos_sdk.client" if name in _CLIENT else "kairos_sdk.profile")
    return getattr(module, name)
