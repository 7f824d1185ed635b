"""Names of providers looked up by ourselves, so that what was checked is what is connected to."""

import asyncio
import socket

from kairos_router.adapters.http_answer import HttpFailed
from kairos_router.application.guard_address import Address, Reach, literal


class GuardedNames:
    """Finds the addresses of an organisation's provider.

    A name is looked up for each new connection and connected to by the address that was found: one that
    leads elsewhere after it was checked leads nowhere.
    """

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def __call__(self, host: str, port: int) -> list[str]:
        """Raises HttpFailed when any of the addresses may not be reached, OSError for an unknown name."""
        found = await _lookup(host, port)
        for address in found.values():
            if not self._reach.allows(address):
                raise HttpFailed("the address is not allowed", sent=False)
        if any(self._reach.inside(address) for address in found.values()):
            own = await self._own(port)
            if any(address in own for address in found.values()):
                raise HttpFailed("the address is one of this installation's servers", sent=False)
        return list(found)

    async def _own(self, port: int) -> set[Address]:
        """Where the suite's servers of this port are now."""
        addresses: set[Address] = set()
        for host in [name for name, at in self._reach.own if at == port]:
            try:
                addresses.update((await _lookup(host, port)).values())
            except OSError:
                continue  # A server that is nowhere can't be reached either.
        return addresses


async def _lookup(host: str, port: int) -> dict[str, Address]:
    """Each address as it is connected to, and what it is."""
    known = literal(host)
    if known is not None:
        return {host: known}
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {str(each[4][0]): literal(str(each[4][0])) for each in found}
    if not addresses:
        raise OSError("no address")
    return {text: address for text, address in addresses.items() if address is not None}
