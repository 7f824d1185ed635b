"""Messages owned by observability."""

from typing import ClassVar, Literal

from kairos_contracts.message import AwareTime, Event

Health = Literal["up", "degraded", "down"]


class ServiceHealthChangedV1(Event):
    """A service's observed health changed. Belongs to the installation, not to an organisation."""

    TYPE: ClassVar[str] = "ops.health.changed.v1"
    service: str
    from_health: Health | None
    to_health: Health
    detail: str
    observed_at: AwareTime

    def aggregate_id(self) -> str:
        return self.service
