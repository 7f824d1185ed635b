"""The settings every service has; each service subclasses with its own prefix."""

from typing import Literal

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceSettings(BaseSettings):
    """Subclass with `model_config = SettingsConfigDict(env_prefix="KAIROS_X_", frozen=True)`.

    URLs of servers hold credentials and are secret; none has a default. An error names the setting that is
    wrong and never shows its value.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: int
    postgres_url: SecretStr
    amqp_url: SecretStr
    redis_url: SecretStr
    auth_url: str
    service_secret: SecretStr
    otlp_endpoint: str | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    environment: str = "dev"
    cookie_secure: bool = False
    faults: str | None = None
    forwarded_allow_ips: str = "127.0.0.1"
    shutdown_grace_s: int = 20
