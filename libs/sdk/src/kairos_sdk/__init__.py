"""What outsiders import to work with a Kairos installation."""

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
