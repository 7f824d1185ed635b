"""Addresses that an organisation may let the router call."""

import ipaddress
from urllib.parse import urlsplit

_LOCAL_NAMES = ("localhost", "local", "internal", "localdomain")


def private_address(url: str) -> bool:
    """Whether the address is one inside our own network, as far as it can be told without asking DNS."""
    host = (urlsplit(url).hostname or "").rstrip(".").lower()
    if not host:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        # A name without a dot is one of the own network's; decimal and hex forms of numbers are no names.
        return "." not in host or host.split(".")[-1] in _LOCAL_NAMES or host.split(".")[-1].isdigit()
    return not address.is_global
