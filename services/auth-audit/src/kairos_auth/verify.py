"""Verify an audit export offline: `python -m kairos_auth.verify --export FILE [--anchor FILE]`.

Exit code 0: intact. 1: something was found. 2: a file can't be read.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kairos_auth.adapters.key_ring import check_signature
from kairos_contracts.audit_verifier import Report, read_anchors, verify_export


def verify_files(export: Path, anchor: Path | None, trusted_keys: Sequence[str] | None) -> Report:
    anchors = read_anchors(anchor.read_text("utf-8").splitlines()) if anchor else []
    keys = frozenset(trusted_keys) if trusted_keys else None
    with export.open(encoding="utf-8") as lines:
        return verify_export(lines, check_signature, anchors=anchors, trusted_keys=keys)


def describe(report: Report) -> str:
    lines = [
        f"stream       {report.stream}",
        f"entries      {report.entries}",
        f"checkpoints  {report.checkpoints}",
        f"head         {report.head_hash}",
    ]
    if not report.pinned:
        lines.append(
            "keys         not pinned: give --anchor or --trust-key to tell our signature from another's"
        )
    for found in report.findings:
        end = "" if found.first_seq == found.last_seq else f"-{found.last_seq}"
        lines.append(f"FOUND        {found.kind} at {found.first_seq}{end} {found.detail}".rstrip())
    lines.append("intact" if report.intact else "NOT INTACT")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kairos_auth.verify", description=__doc__)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--anchor", type=Path)
    parser.add_argument("--trust-key", action="append", help="public key, base64url; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    chosen = parser.parse_args(arguments)
    try:
        report = verify_files(chosen.export, chosen.anchor, chosen.trust_key)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    document = {"intact": report.intact, **asdict(report)}
    sys.stdout.write(json.dumps(document) + "\n" if chosen.json else describe(report))
    return 0 if report.intact else 1


if __name__ == "__main__":
    raise SystemExit(main())
