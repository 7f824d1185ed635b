"""Tell other routers of our circuits."""

from uuid import UUID

from kairos_contracts.llm.v1 import CircuitChangedV1
from kairos_messaging import Bus
from kairos_router.adapters.buffer import Buffer

WAITING = 200


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
