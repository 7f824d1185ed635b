"""Gives a fresh installation its first content, through the services' own commands and REST.

Everything is looked up before it is made, so seeding again changes nothing.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from kairos_testkit.api_client import ApiClient, ApiError, is_refusal
from kairos_testkit.local_state import write_private
from kairos_testkit.suite import BY_NAME, Suite

TELEGRAM_BOT_ID: Final = 424242
MODEL: Final = "default"
_KEY_NAME: Final = "make up"


class SeedError(Exception):
    """The installation could not be given its first content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPlan:
    organisation: str = "Kairos Demo"
    admin_email: str = "admin@kairos.example"
    project: str = "Demo"
    bot: str = "Demo"
    system_prompt: str = "You are a friendly assistant. Answer in a few short sentences."
    model: str = MODEL
    embedding_model: str = "embedding"
    # None: the bot has no Telegram channel.
    telegram_token: str | None = None
    monthly_limit_usd: str = "50"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeded:
    organisation_id: str
    admin_email: str
    # The one-time password of the first admin; it stops being valid when the admin changes it.
    admin_password: str
    api_key: str
    project_id: str
    bot_id: str
    telegram_bot_id: int | None
    budget_id: str
    model: str
    embedding_model: str

    def connection(self) -> dict[str, Any]:
        """The part of connection.json that seeding knows."""
        return {
            "api_key": self.api_key,
            "model": self.model,
            "embedding_model": self.embedding_model,
            "admin_email": self.admin_email,
            "admin_password": self.admin_password,
            "organisation_id": self.organisation_id,
            "project_id": self.project_id,
            "bot_id": self.bot_id,
            "telegram_bot_id": self.telegram_bot_id,
            "budget_id": self.budget_id,
        }


def seed(suite: Suite, plan: SeedPlan, known: Mapping[str, Any]) -> Seeded:
    """`known` is the last connection record: its key is used again while it works."""
    admin = _admin(suite, plan)
    api_key = known.get("api_key") or ""
    if not (api_key and _works(suite, api_key)):
        api_key = _new_key(suite, admin)
    auth, budgets, bots = (
        ApiClient(suite.url(name)).with_key(api_key)
        for name in ("auth-audit", "budget-analytics", "bot-worker")
    )
    project = _find(auth, "/projects", plan.project) or auth.post("/projects", {"name": plan.project})
    budget = _find(budgets, "/budgets", f"{plan.organisation} month") or budgets.post(
        "/budgets",
        {
            "name": f"{plan.organisation} month",
            "scope": "organisation",
            "period": "month",
            "limit_usd": plan.monthly_limit_usd,
        },
    )
    bot = _find(bots, "/bots", plan.bot) or bots.post("/bots", _bot(plan, project["id"]))
    return Seeded(
        organisation_id=admin["organisation_id"],
        admin_email=plan.admin_email,
        admin_password=admin["password"],
        api_key=api_key,
        project_id=project["id"],
        bot_id=bot["id"],
        telegram_bot_id=TELEGRAM_BOT_ID if plan.telegram_token else None,
        budget_id=budget["id"],
        model=plan.model,
        embedding_model=plan.embedding_model,
    )


def _bot(plan: SeedPlan, project_id: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "name": plan.bot,
        "project_id": project_id,
        "mode": "gpt",
        "model": plan.model,
        "system_prompt": plan.system_prompt,
        "web_enabled": True,
        "desired_state": "running",
    }
    if plan.telegram_token:
        body["telegram_token"] = plan.telegram_token
    return body


def _admin(suite: Suite, plan: SeedPlan) -> dict[str, Any]:
    """Organisation and first admin. The record is written at once: its password is told only once."""
    file = suite.state / "admin.json"
    if file.exists():
        return _read(file)
    service = BY_NAME["auth-audit"]
    command = [sys.executable, "-m", "kairos_auth.bootstrap_admin"]
    command += ["--organisation", plan.organisation, "--email", plan.admin_email]
    done = subprocess.run(
        command, env=suite.environment(service), cwd=suite.root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SeedError(f"the first admin could not be made: {done.stderr.strip()[-1000:]}")
    made: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if "password" not in made:
        raise SeedError(f"{plan.admin_email} exists, but its one-time password is not in {file}")
    write_private(file, json.dumps(made))
    return made


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _works(suite: Suite, api_key: str) -> bool:
    try:
        ApiClient(suite.url("auth-audit")).with_key(api_key).get("/session")
    except ApiError as error:
        if is_refusal(error):
            return False
        raise
    return True


def _new_key(suite: Suite, admin: Mapping[str, Any]) -> str:
    """Signs in as the console does and makes a key with everything an admin may do."""
    auth = ApiClient(suite.url("auth-audit"))
    credentials = {"email": admin["email"], "password": admin["password"]}
    try:
        session, headers = auth.exchange("POST", "/session", credentials)
    except ApiError as error:
        if is_refusal(error):
            raise SeedError(
                "the API key in connection.json no longer works and the admin's password was changed; "
                "make a key in the console and put it there as api_key"
            ) from error
        raise
    cookie = headers["set-cookie"].partition(";")[0]
    signed_in = auth.with_headers(
        Cookie=cookie, X_CSRF_Token=session["csrf_token"], Sec_Fetch_Site="same-origin"
    )
    return str(signed_in.post("/api-keys", {"name": _KEY_NAME})["key"])


def _find(client: ApiClient, path: str, name: str) -> dict[str, Any] | None:
    return next((item for item in client.items(path) if item["name"] == name), None)
