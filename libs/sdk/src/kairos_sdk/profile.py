"""Where an installation is: the connection file that `make up` and `kairos login` write."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

LOCAL = Path(".kairos/connection.json")
USER = Path.home() / ".config/kairos/connection.json"


class ProfileMissing(Exception):  # noqa: N818 - reads as the fact it states
    """No installation is known here. Run `make up` in a checkout, or `kairos login URL`."""


class ProfileUnreadable(Exception):  # noqa: N818 - reads as the fact it states
    """The connection file is there but is not what `make up` or `kairos login` writes."""


class Service(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    url: str
    pid: int | None = None


class Profile(BaseModel):
    """One installation. Addresses end without a slash."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    front_door: str
    api_key: SecretStr
    openai_base_url: str | None = None
    model: str | None = None
    bot_id: str | None = None
    fake_telegram_url: str | None = None
    services: dict[str, Service] = {}


def _nearest() -> Path:
    """The checkout's own installation first, wherever below it one stands; then the user's."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / LOCAL).is_file():
            return folder / LOCAL
    if USER.is_file():
        return USER
    raise ProfileMissing(ProfileMissing.__doc__)


def load(path: Path | None = None) -> Profile:
    """Read the profile at `path`, or the nearest one. Raises ProfileMissing, ProfileUnreadable."""
    source = path or _nearest()
    try:
        return Profile.model_validate_json(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProfileMissing(f"{source} does not exist") from error
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise ProfileUnreadable(f"{source} is not a connection file: {fields or 'no JSON'}") from error


def save(front_door: str, api_key: str, path: Path = USER) -> Path:
    """Remember an installation for this user; only the user can read the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(json.dumps({"front_door": front_door.rstrip("/"), "api_key": api_key}, indent=2) + "\n")
    return path
