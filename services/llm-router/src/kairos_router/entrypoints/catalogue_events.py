"""What routers tell one another: that the catalogue has changed, and that a deployment fails."""

from typing import Any, Protocol

from kairos_contracts.llm.v1 import CatalogueChangedV1, CircuitChangedV1
from kairos_messaging import Bus, Delivery
from kairos_router.application.circuits import Circuits


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
    bus.on_gap(catalogue.changed)
