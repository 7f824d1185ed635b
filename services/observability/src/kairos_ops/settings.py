from datetime import timedelta

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kairos_web.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from `KAIROS_OPS_*`. `targets` maps each service to watch to its base address."""

    model_config = SettingsConfigDict(env_prefix="KAIROS_OPS_", frozen=True, extra="ignore")

    port: int = 5054
    targets: dict[str, str] = Field(default_factory=dict)
    look_every_s: float = 2.0
    # Pages of these origins may open the live feed besides pages of the host itself.
    allowed_origins: frozenset[str] = frozenset()
    socket_life: timedelta = timedelta(minutes=30)
    max_sockets: int = 5_000
