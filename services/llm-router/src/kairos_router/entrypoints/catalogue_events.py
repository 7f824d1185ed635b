"""What routers tell one another: that the catalogue has changed, and that a deployment fails."""

from typing import Any, Protocol
from uuid import UUID

from kairos_contracts.llm.v1 import CatalogueChangedV1, CircuitChangedV1
from kairos_messaging import Bus, Delivery
from kairos_router.adapters.buffer import Buffer
from kairos_router.application.circuits import Circuits

WAITING = 200


class Follows(Protocol):
    def changed(self) -> None:
        """Read the catalogue anew as soon as possible."""
        ...


def follow(bus: Bus, catalogue: Follows, circuits: Circuits, holder: str) -> None:
    async def change(delivery: Delivery[Any]) -> None:
        message = delivery.message
        if isinstance(message, CatalogueChangedV1):
            catalogue.changed()
        elif isinstance(message, CircuitChangedV1) and message.holder != holder and message.state == "open":
            # A hint only: one failure of its own is enough for this process to believe it.
            circuits.suspect(message.deployment)

    bus.on_replica([CatalogueChangedV1, CircuitChangedV1], change)


def _owner(uid: str) -> UUID | None:
    """The organisation of an own deployment; shared ones have none. A shared name may hold slashes too."""
    try:
        return UUID(uid.partition("/")[0])
    except ValueError:
        return None


class CircuitEvents:
    """Tells other processes of our circuits, without anybody waiting for it."""

    def __init__(self, bus: Bus, holder: str) -> None:
        self._bus = bus
        self._holder = holder
        self._buffer: Buffer[CircuitChangedV1] = Buffer("circuits", self._publish, WAITING)

    def tell(self, uid: str, state: str, reason: str) -> None:
        if not self._buffer.full:
            opened = "open" if state == "open" else "closed"
            self._buffer.add(
                CircuitChangedV1(deployment=uid, state=opened, holder=self._holder, reason=reason)
            )

    async def run(self) -> None:
        await self._buffer.run()

    async def _publish(self, event: CircuitChangedV1) -> None:
        await self._bus.publish(event, organisation_id=_owner(event.deployment))
