"""What the environment may tell the testkit. Everything has a default: `make test` needs no setting."""

import os
import re
from typing import Final

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


# What a service started by the testkit takes over from the user's environment: keys and addresses of
# real providers, the way out to the network, and coverage when a test run measures its children.
_MEASURING: Final = ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START")
_PASSED: Final = (
    *_MEASURING,
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "TZ",
    "HOME",
    "LANG",
    "PATH",
)
_PASSED_ENDINGS: Final = ("_API_KEY", "_BASE_URL")
_NAMED: Final = re.compile(r"""\$\{(\w+)|_env\s*=\s*"(\w+)\"""")


def passed_environment(*, measured: bool = True) -> dict[str, str]:
    """The part of this process's environment that services inherit."""
    everything = os.environ  # noqa: TID251 - this module is the testkit's reader of the environment
    return {
        name: value
        for name, value in everything.items()
        if (name in _PASSED and (measured or name not in _MEASURING))
        or (name.endswith(_PASSED_ENDINGS) and not name.startswith("KAIROS_"))
    }


def named_environment(text: str) -> dict[str, str]:
    """The variables that are set among those a configuration file names, as ${NAME} or by a key's `_env`."""
    names = {given or key for given, key in _NAMED.findall(text)}
    return {name: value for name, value in whole_environment().items() if name in names}


def whole_environment() -> dict[str, str]:
    """For tools of the user's own, which find registries and certificates through variables of their own."""
    return dict(os.environ)  # noqa: TID251 - as above


class LocalSettings(BaseSettings):
    """What `make up` may be told."""

    model_config = SettingsConfigDict(
        env_prefix="KAIROS_", frozen=True, extra="ignore", populate_by_name=True
    )

    native: bool = False
    docker_host: str | None = Field(default=None, validation_alias="DOCKER_HOST")
    organisation: str = "Kairos Demo"
    admin_email: str = "admin@kairos.example"
    otlp_endpoint: str | None = None
    log_level: str = "INFO"
    telegram_api_base: str | None = None
    # An address the real Telegram can reach; without one, bots of the real Telegram poll.
    public_url: str | None = None
    # `make clean` deletes data only when this is "yes".
    clean: str = ""
