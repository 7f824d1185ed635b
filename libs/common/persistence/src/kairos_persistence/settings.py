"""Where provisioning and migrations find the server when nothing is said on the command line."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class DatabaseSettings(BaseSettings):
    """Environment of a container that provisions or migrates; passwords stay off the process list."""

    model_config = SettingsConfigDict(env_prefix="KAIROS_", frozen=True, extra="ignore")

    postgres_url: SecretStr | None = None
    postgres_admin_url: SecretStr | None = None
    role_passwords: dict[str, SecretStr] = {}


def given_or(url: str | None, fallback: SecretStr | None, variable: str) -> str:
    """The URL of the command line, else of the environment; ends the program with a sentence otherwise."""
    if url:
        return url
    if fallback is None:
        raise SystemExit(f"no server is named: set {variable}")
    return fallback.get_secret_value()
