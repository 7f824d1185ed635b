"""`kairos audit`: read the audit log, take it away, verify it offline."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from kairos_sdk.commands.output import Exit, Json, Limit, ProfileFile, connected, fail, show

app = typer.Typer(no_args_is_help=True, help="Audit log: list, export, verify.")
COLUMNS = {
    "seq": "seq",
    "when": "at",
    "who": "who",
    "action": "action",
    "target": "target",
    "outcome": "outcome",
}
EXPORT = "/api/auth-audit/audit/export"


@app.command("list")
def list_entries(profile: ProfileFile = None, as_json: Json = False, limit: Limit = 50) -> None:
    """List audit entries, newest first."""
    with connected(profile) as client:
        rows = list(client.items("/api/auth-audit/audit/entries", limit=limit))
        if not as_json:
            for row in rows:
                entry = row["entry"]
                who = entry["actor"]["display"] or entry["actor"]["id"]
                row.update({"at": entry["occurred_at"], "who": who, "action": entry["action"]})
                row.update({"target": entry["target"], "outcome": entry["outcome"]})
        show(rows, COLUMNS, as_json=as_json)


@app.command("export")
def export(
    file: Annotated[Path, typer.Argument(help="Where to write it.")], profile: ProfileFile = None
) -> None:
    """Write the whole log with its proofs to a file."""
    with connected(profile) as client:
        lines = client.text(EXPORT)
    try:
        file.write_text(lines, encoding="utf-8")
    except OSError as error:
        raise fail(f"{file} can't be written: {error.strerror}", code=Exit.USAGE) from error
    typer.echo(f"{lines.count(chr(10))} lines in {file}")


@app.command("verify")
def verify(
    file: Annotated[
        Path | None,
        typer.Option("--export", help="An export; without it, one is taken from the installation."),
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option("--anchor", help="Checkpoints kept outside the database.")
    ] = None,
    trust: Annotated[list[str] | None, typer.Option("--trust-key", help="Public key, base64url.")] = None,
    profile: ProfileFile = None,
    as_json: Json = False,
) -> None:
    """Verify the log on this machine: find and locate edits, deletions, insertions, swaps, truncation."""
    from kairos_sdk.audit_export import verify_lines  # noqa: PLC0415 - keeps `kairos --help` fast

    if file is None:
        with connected(profile) as client:
            lines = client.text(EXPORT).splitlines()
    else:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise fail(f"{file} can't be read: {error.strerror}", code=Exit.USAGE) from error
    try:
        report = verify_lines(lines, anchor=anchor, trusted_keys=trust)
    except (OSError, ValueError) as error:
        raise fail(str(error), code=Exit.USAGE) from error
    if as_json:
        typer.echo(json.dumps({"intact": report.intact, **asdict(report)}))
    else:
        sizes = f"{report.entries} entries, {report.checkpoints} checkpoints"
        typer.echo(f"{report.stream}: {sizes}, head {report.head_hash}")
        if not report.pinned:
            typer.echo("keys are not pinned: --anchor or --trust-key tells our signature from another's")
        for found in report.findings:
            where = (
                f"{found.first_seq}"
                if found.first_seq == found.last_seq
                else f"{found.first_seq}-{found.last_seq}"
            )
            typer.echo(f"FOUND {found.kind} at {where} {found.detail}".rstrip())
        typer.echo("intact" if report.intact else "NOT INTACT")
    if not report.intact:
        raise typer.Exit(Exit.FAILED)
