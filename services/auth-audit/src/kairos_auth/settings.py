"""Settings of auth-audit, read from `KAIROS_AUTH_*`."""

import base64
import binascii
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretBytes, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from kairos_web import ServiceSettings

_SEED_BYTES = 32


def _seed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        seed = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise ValueError("a signing key is base64") from error
    if len(seed) != _SEED_BYTES:
        raise ValueError(f"a signing key is {_SEED_BYTES} bytes")
    return seed


Seed = Annotated[SecretBytes, BeforeValidator(_seed)]


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="KAIROS_AUTH_", frozen=True, extra="ignore")

    port: int = 5053
    signing_key: Seed
    next_signing_key: Seed | None = None
    previous_signing_key: Seed | None = None
    key_pepper: SecretStr
    service_secrets: dict[str, SecretStr]
    anchor_file: Path
    checkpoint_seconds: float = 60.0
    checkpoint_entries: int = 1_000
    hashes_at_once: int = 4


class BootstrapSettings(BaseSettings):
    """What making the first admin needs."""

    model_config = SettingsConfigDict(env_prefix="KAIROS_AUTH_", frozen=True, extra="ignore")

    postgres_url: SecretStr
