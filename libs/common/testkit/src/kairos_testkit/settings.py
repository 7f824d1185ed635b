"""What the environment may tell the testkit. Everything has a default: `make test` needs no setting."""

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class KitSettings(BaseSettings):
    """Servers a run shall use instead of starting its own."""

    model_config = SettingsConfigDict(
        env_prefix="KAIROS_TEST_", frozen=True, extra="ignore", populate_by_name=True
    )

    amqp_url: str | None = None
    # http://user:password@host:port; fresh virtual hosts are made through it.
    amqp_management_url: str | None = None
    postgres_admin_url: str | None = None
    redis_url: str | None = None
    # True: never look for a Docker engine, always use the system's own packages.
    native: bool = Field(default=False, validation_alias=AliasChoices("KAIROS_NATIVE", "KAIROS_TEST_NATIVE"))
    docker_host: str | None = Field(default=None, validation_alias="DOCKER_HOST")
    # True: the state directory of the private servers stays after the run.
    keep: bool = False
