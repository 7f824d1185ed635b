from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from kairos_web.settings import ServiceSettings


class Settings(ServiceSettings):
    """Read from `KAIROS_BOTS_*`. Durations are in the unit their name ends with.

    `data_key` is base64 of 32 random bytes. `previous_data_keys` (a JSON list)
    still open what they sealed.
    `public_url` is where Telegram reaches the front door; without it webhooks are set by hand.
    `turn_deadline_s` is how long a contact waits for the model before the fallback text.
    """

    model_config = SettingsConfigDict(
        env_prefix="KAIROS_BOTS_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    port: int = 5050
    data_key: SecretStr
    previous_data_keys: tuple[SecretStr, ...] = ()
    public_url: str | None = None

    quiet_window_ms: int = Field(default=300, ge=0)
    quiet_window_longest_ms: int = Field(default=2_000, ge=0)
    turn_deadline_s: float = Field(default=60.0, gt=0)
    turn_workers: int = Field(default=4, ge=1)

    telegram_api_base: str = "https://api.telegram.org"
    telegram_send_timeout_s: int = Field(default=6, ge=1)
    telegram_poll_s: int = Field(default=5, ge=0)
    telegram_chat_per_s: float = Field(default=1.0, gt=0)
    telegram_chat_burst: int = Field(default=3, ge=1)
    telegram_group_per_min: float = Field(default=20.0, gt=0)
    telegram_bot_per_s: float = Field(default=30.0, gt=0)
    senders: int = Field(default=32, ge=1)
    claim_s: float = Field(default=10.0, gt=1)

    poll_s: float = Field(default=0.5, gt=0)
    registry_poll_s: float = Field(default=10.0, gt=0)
    database_pool: int = Field(default=20, ge=4)
    web_sessions_per_min: int = Field(default=30, ge=1)
    web_messages_per_min: int = Field(default=60, ge=1)

    @model_validator(mode="after")
    def _send_ends_before_its_claim(self) -> Self:
        if self.telegram_send_timeout_s >= self.claim_s or self.telegram_poll_s >= self.claim_s:
            raise ValueError("telegram_send_timeout_s and telegram_poll_s must be below claim_s")
        return self
