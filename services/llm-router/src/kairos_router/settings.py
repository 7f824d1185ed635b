"""What the environment says. Nothing else in the service reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, IPvAnyNetwork, SecretStr
from pydantic_settings import SettingsConfigDict

from kairos_web import ServiceSettings


class Settings(ServiceSettings):
    """`KAIROS_ROUTER_…`. Times are in seconds, money in nano-USD."""

    model_config = SettingsConfigDict(env_prefix="KAIROS_ROUTER_", frozen=True)

    port: int = 5051
    config_file: Path = Path("kairos.toml")
    budget_url: str
    lease_slice_nano_usd: int = Field(500_000_000, gt=0)
    lease_idle_s: float = Field(20.0, gt=0)
    lease_heartbeat_s: float = Field(3.0, gt=0)
    lease_margin_s: float = Field(0.5, ge=0)
    budget_timeout_s: float = Field(2.0, gt=0)
    worker_concurrency: int = Field(64, gt=0)
    worker_poll_s: float = Field(0.5, gt=0)
    claim_ttl_s: float = Field(15.0, gt=0)
    usage_buffer: int = Field(10_000, gt=0)
    usage_publishers: int = Field(4, gt=0)
    # Of /v1 requests that bring no trace of their own, this part is traced when an OTLP endpoint is set.
    trace_ratio: float = Field(1.0, ge=0, le=1)
    max_body: int = Field(8 * 1024 * 1024, gt=0)
    keep_completions_days: int = Field(7, gt=0)
    # base64 of 32 bytes: providers' keys that are given by API are kept under it. To rotate, move it to
    # `previous_data_keys`.
    data_key: SecretStr | None = None
    previous_data_keys: list[SecretStr] = Field(default_factory=list)
    # Variables whose provider keys organisations may use in deployments of their own, and only at an
    # address where a shared deployment uses the key: elsewhere they would be given away.
    provider_key_names: frozenset[str] = frozenset()
    # Networks inside, in JSON, where deployments of organisations may be ("10.8.0.0/24"), or all of them.
    # Link-local addresses, clouds' metadata and the suite's own servers never are.
    provider_networks: tuple[IPvAnyNetwork, ...] = ()
    private_providers: bool = False
    # Changes are followed by their events; these find the ones whose event was lost.
    catalogue_poll_s: float = Field(5.0, gt=0)
    limits_poll_s: float = Field(30.0, gt=0)


def environment() -> Mapping[str, str]:
    """The variables kairos.toml may name: provider addresses and keys."""
    return dict(os.environ)  # noqa: TID251 - settings.py is where the environment is read


def quiet_litellm() -> None:
    """Switches that LiteLLM reads at import: its own price map and headers, no .env file, no calls home."""
    os.environ.update(  # noqa: TID251 - as above
        LITELLM_MODE="PRODUCTION",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS="True",
        LITELLM_LOCAL_BLOG_POSTS="True",
        LITELLM_TELEMETRY="False",
        LITELLM_LOG="ERROR",
    )
