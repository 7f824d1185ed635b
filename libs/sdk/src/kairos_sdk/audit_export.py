"""Verify an audit export offline, with no service and no trust in one."""

from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kairos_contracts.audit_verifier import Report, read_anchors, verify_export


def check_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature holds; a malformed key or signature does not."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_lines(
    lines: Iterable[str], *, anchor: Path | None = None, trusted_keys: Iterable[str] | None = None
) -> Report:
    """Verify an NDJSON export. Raises OSError or ValueError when the anchor file can't be read."""
    anchors = read_anchors(anchor.read_text("utf-8").splitlines()) if anchor else []
    keys = frozenset(trusted_keys) if trusted_keys else None
    return verify_export(lines, check_signature, anchors=anchors, trusted_keys=keys)
