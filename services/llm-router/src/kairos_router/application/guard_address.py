"""Addresses that an organisation may let the router call (docs/decisions/0021)."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LOCAL_NAMES: Final = ("localhost", "local", "internal", "localdomain")
# Without whitespace, credentials, a query or a backslash: nothing two readers of addresses take differently.
_PLAIN: Final = re.compile(r"https?://[A-Za-z0-9._:\[\]-]+(/[!-\"$->@-\[\]-~]*)?")
_PORTS: Final = {"http": 80, "https": 443}
# Where clouds keep the machine's own credentials; the others are link-local.
_METADATA: Final = frozenset(
    ipaddress.ip_address(each) for each in ("100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
# IPv6 that carries an IPv4 address in its last bytes: translated, or of old.
_CARRYING: Final = tuple(ipaddress.ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
_IPV4: Final = 0xFFFF_FFFF


class InvalidAddress(ValueError):  # noqa: N818 - reads as the fact it states
    """Not a plain http address; the deployment is refused."""


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises InvalidAddress."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidAddress(url) from error
    host = (parts.hostname or "").rstrip(".").lower()
    if not _PLAIN.fullmatch(url) or not host or port == 0:
        raise InvalidAddress(url)
    return parts.scheme, host, port or _PORTS[parts.scheme]


def literal(host: str) -> Address | None:
    """The address a host is written as, None for a name."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 one leads to, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    carried = address.ipv4_mapped or address.sixtofour
    if carried is not None:
        return carried
    if int(address) > 1 and any(address in network for network in _CARRYING):
        return ipaddress.IPv4Address(int(address) & _IPV4)
    return address


@dataclass(frozen=True, slots=True)
class Reach:
    """How far deployments of organisations reach: the internet, and inside only what is allowed here.

    `private` allows every network inside, `networks` these ones. `own` are hosts and ports of the suite's
    servers, which nothing allows.
    """

    private: bool = False
    networks: tuple[Network, ...] = ()
    own: frozenset[tuple[str, int]] = frozenset()

    def inside(self, address: Address) -> bool:
        """Whether it is a network of ours, where the suite's own servers may be too."""
        return not _inner(address).is_global

    def allows(self, address: Address) -> bool:
        """Whether it may be connected to, as far as an address tells. Not the suite's own servers."""
        found = _inner(address)
        if (
            found.is_link_local
            or found.is_multicast
            or found.is_unspecified
            or (found.is_reserved and not found.is_loopback)
            or found in _METADATA
        ):
            return False
        if found.is_global or self.private:
            return True
        return any(found in network for network in self.networks)

    def may_be_named(self, host: str, port: int) -> bool:
        """Whether a deployment may have this host, as far as it can be told without asking DNS."""
        if (host, port) in self.own:
            return False
        address = literal(host)
        if address is not None:
            return self.allows(address)
        last = host.rpartition(".")[2]
        # Decimal and hex forms of numbers are no names, though resolvers read them as addresses.
        if last.isdigit() or last.startswith("0x"):
            return False
        # A name without a dot is one of the own network's.
        return self.private or bool(self.networks) or ("." in host and last not in _LOCAL_NAMES)
