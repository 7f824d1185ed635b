from pydantic import Field
from pydantic_settings import SettingsConfigDict

from kairos_web.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from `KAIROS_BUDGET_*`. Times are in seconds."""

    model_config = SettingsConfigDict(env_prefix="KAIROS_BUDGET_", frozen=True, extra="ignore")

    port: int = 5052
    # How long a lease may be spent from without a heartbeat.
    lease_ttl_s: float = Field(default=15, gt=0)
    # How much longer its holder may stay silent before the rest of the lease is suspended.
    lease_grace_s: float = Field(default=15, ge=0)
    # How long a closed lease waits for usage its holder reported but the broker has not delivered.
    close_grace_s: float = Field(default=600, ge=0)
    sweep_every_s: float = Field(default=1, gt=0)
    check_every_s: float = Field(default=60, gt=0)
    forecast_every_s: float = Field(default=60, gt=0)
    measure_every_s: float = Field(default=5, gt=0)
    # How long rollups are kept, by grain.
    keep_minutes_days: int = Field(default=7, ge=1, le=60)
    keep_hours_days: int = Field(default=100, ge=1, le=800)
    keep_days_days: int = Field(default=1_095, ge=1, le=4_000)
    # How many attempts one transaction charges; a message's records are never split over two.
    usage_batch: int = Field(default=1_000, ge=1, le=5_000)
    # How many messages are taken from the queue at once, each of up to 500 attempts.
    usage_messages: int = Field(default=128, ge=1, le=1_000)
