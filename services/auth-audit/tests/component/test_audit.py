"""From the outbox through RabbitMQ into the chain, and out again."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner, Result

from kairos_auth.adapters.key_ring import check_signature
from kairos_auth.adapters.transactions import PostgresTransactions
from kairos_auth.application.chain_entry import ChainEntry
from kairos_contracts.audit import AuditContext
from kairos_contracts.audit_verifier import read_anchors, verify_export
from kairos_sdk.commands.app import app

pytestmark = pytest.mark.servers


def verify(*arguments: str) -> Result:
    """What people verify with, on a machine that knows no installation."""
    return CliRunner().invoke(app, ["audit", "verify", *arguments])


async def export_of(account: Any) -> list[str]:
    answer = await account.client.get("/audit/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return answer.text.splitlines()


async def filled(running: Any, projects: int = 5) -> None:
    """An organisation with some history, all of it chained."""
    owner = await running.organisation()
    for number in range(projects):
        await owner.client.post("/projects", json={"name": f"project {number}"})
    await owner.audited(target=(await owner.audited(action="project.created"))["target"])

    async def chained() -> bool:
        return len(await owner.entries(action="project.created")) == projects

    return owner, chained


async def test_an_export_verifies_offline_with_the_anchor(
    running: Any, eventual: Any, tmp_path: Path
) -> None:
    owner, chained = await filled(running)
    await eventual(chained)
    await running.service.checkpointer.write()
    await owner.client.post("/projects", json={"name": "after the checkpoint"})
    await owner.audited(action="project.created", target=(await newest_project(owner)))
    lines = await export_of(owner)
    anchors = read_anchors(running.settings.anchor_file.read_text().splitlines())
    report = verify_export(lines, check_signature, anchors=anchors)
    assert report.findings == ()
    assert report.pinned
    assert report.entries == len(lines) - 3
    file = tmp_path / "audit.ndjson"
    file.write_text("\n".join(lines))
    arguments = ["--export", str(file), "--anchor", str(running.settings.anchor_file)]
    assert verify(*arguments).exit_code == 0
    file.write_text("\n".join(lines).replace("project 3", "project X"))
    assert verify(*arguments, "--json").exit_code == 1
    assert verify("--export", str(tmp_path / "none")).exit_code == 2
    await owner.audited(action="audit.exported")


async def newest_project(owner: Any) -> str:
    projects = (await owner.client.get("/projects")).json()["items"]
    return "project:" + next(each["id"] for each in projects if each["name"] == "after the checkpoint")


async def test_an_edit_in_the_database_is_found_and_located(
    running: Any, eventual: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, chained = await filled(running)
    await eventual(chained)
    await running.service.checkpointer.write()
    clean = (await owner.client.post("/audit/verify")).json()
    assert (clean["intact"], clean["findings"]) == (True, [])
    verified = await owner.audited(action="audit.verified")
    assert verified["outcome"] == "allowed"
    with psycopg.connect(running.database.admin_url) as connection:
        connection.execute(
            'UPDATE auth.audit_entries SET entry = (entry::jsonb || \'{"outcome": "denied"}\')::json'
            " WHERE stream = %s AND seq = 3",
            (str(owner.organisation_id),),
        )
    found = (await owner.client.post("/audit/verify")).json()
    assert found["intact"] is False
    assert [(each["kind"], each["first_seq"]) for each in found["findings"]] == [("edited", 3)]


async def test_truncation_in_the_database_is_found_by_the_checkpoint(running: Any, eventual: Any) -> None:
    owner, chained = await filled(running)
    await eventual(chained)
    await running.service.checkpointer.write()
    size = (await owner.client.get("/audit/checkpoints")).json()["items"][0]["size"]
    stream = str(owner.organisation_id)
    with psycopg.connect(running.database.admin_url) as connection:
        connection.execute(
            "DELETE FROM auth.audit_entries WHERE stream = %s AND seq >= %s", (stream, size - 1)
        )
    found = (await owner.client.post("/audit/verify")).json()
    assert ("truncated", size - 1) in [(each["kind"], each["first_seq"]) for each in found["findings"]]
    lines = await export_of(owner)
    assert not verify_export(lines, check_signature).intact


async def test_nothing_is_signed_over_a_broken_chain(running: Any, eventual: Any) -> None:
    owner, chained = await filled(running)
    await eventual(chained)
    with psycopg.connect(running.database.admin_url) as connection:
        connection.execute(
            "DELETE FROM auth.audit_entries WHERE stream = %s AND seq = 2", (str(owner.organisation_id),)
        )
    try:
        await running.service.checkpointer.write()
        assert (await owner.client.get("/audit/checkpoints")).json()["items"] == []
        async with running.anonymous() as client:
            health = (await client.get("/health")).json()
        assert health["status"] == "degraded"
    finally:
        with psycopg.connect(running.database.admin_url) as connection:
            connection.execute(
                "DELETE FROM auth.audit_heads WHERE stream = %s", (str(owner.organisation_id),)
            )
    await running.service.checkpointer.write()


@pytest.mark.parametrize("table", ["audit_entries", "audit_checkpoints", "audit_anchors"])
@pytest.mark.parametrize("change", ["UPDATE {} SET organisation_id = NULL", "DELETE FROM {}", "TRUNCATE {}"])
async def test_the_service_itself_can_not_change_the_log(running: Any, table: str, change: str) -> None:
    with (
        psycopg.connect(running.database.urls["auth"]) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        connection.execute(change.format(f"auth.{table}"))


async def test_a_redelivered_entry_is_chained_once(running: Any, admin: Any) -> None:
    chain = ChainEntry(PostgresTransactions(running.service.database), running.clock)
    message = AuditContext.system("auth-audit").entry("bot.created", f"bot:{uuid4()}")
    given = {"message_id": uuid4(), "organisation_id": admin.organisation_id, "source": "bot-worker"}
    links = await asyncio.gather(*(chain(message, **given) for _ in range(5)))
    assert len([link for link in links if link]) == 1
    assert len(await admin.entries(target=message.target)) == 1


async def test_parallel_entries_make_one_chain(running: Any) -> None:
    owner = await running.organisation()
    chain = ChainEntry(PostgresTransactions(running.service.database), running.clock)
    context = AuditContext.system("auth-audit")
    organisation_id = owner.organisation_id
    await asyncio.gather(
        *(
            chain(
                context.entry("bot.updated", f"bot:{number}", after={"n": number / 3, "text": "\0\ud800é"}),
                message_id=uuid4(),
                organisation_id=organisation_id,
                source="bot-worker",
            )
            for number in range(60)
        )
    )
    report = verify_export(await export_of(owner), check_signature)
    assert report.findings == ()
    assert report.entries >= 60


async def test_the_clock_going_back_does_not_look_like_tampering(running: Any) -> None:
    owner = await running.organisation()
    chain = ChainEntry(PostgresTransactions(running.service.database), running.clock)
    context = AuditContext.system("auth-audit")
    try:
        for hours in (2, 1, 0):
            running.clock.ahead = timedelta(hours=hours)
            await chain(
                context.entry("bot.updated", "bot:1"),
                message_id=uuid4(),
                organisation_id=owner.organisation_id,
                source="bot-worker",
            )
    finally:
        running.clock.ahead = timedelta()
    report = verify_export(await export_of(owner), check_signature)
    assert report.findings == ()


async def test_entries_are_filtered_and_paged(running: Any, eventual: Any) -> None:
    owner, chained = await filled(running, projects=7)
    await eventual(chained)
    seen, cursor = [], None
    while True:
        query = {"action": "project.created", "limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await owner.client.get("/audit/entries", params=query)).json()
        seen += [item["seq"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 7
    assert seen == sorted(seen, reverse=True)
    created = await owner.entries(action="project.created")
    middle = created[3]["occurred_at"]
    assert len(await owner.entries(action="project.created", **{"from": middle})) == 4
    assert len(await owner.entries(action="project.created", to=middle)) == 3
    assert await owner.entries(outcome="denied") == []
    assert len(await owner.entries(actor=str(owner.member_id), action="project.created")) == 7


async def test_a_checkpoint_is_anchored_once_and_survives_a_lost_anchor_write(
    running: Any, eventual: Any
) -> None:
    owner, chained = await filled(running)
    await eventual(chained)
    await running.service.checkpointer.write()
    stream = str(owner.organisation_id)

    def anchored() -> int:
        lines = running.settings.anchor_file.read_text().splitlines()
        return sum(json.loads(line)["stream"] == stream for line in lines)

    assert anchored() == 1
    await running.service.checkpointer.write()
    assert anchored() == 1


async def test_secrets_are_in_no_table_and_no_message(running: Any) -> None:
    owner = await running.organisation()
    token = owner.client.cookies["kairos_session"]
    _, key = await owner.api_key()
    with psycopg.connect(running.database.admin_url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'auth'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
        for (table,) in tables:
            dump = str(connection.execute(f'SELECT * FROM auth."{table}"').fetchall())  # noqa: S608 - a name from the catalogue
            for secret in (token, key, owner.password):
                assert secret not in dump, table
