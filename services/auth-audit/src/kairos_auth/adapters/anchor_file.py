"""Checkpoints in an append-only file, which belongs on another volume than the database."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path

from kairos_contracts.audit_chain import Checkpoint
from kairos_contracts.audit_verifier import read_anchors


class AnchorFile:
    """One JSON line per checkpoint, synced to the disk. Mark the file append-only where the system can."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def write(self, checkpoints: Sequence[Checkpoint]) -> None:
        await asyncio.to_thread(self._write, checkpoints)

    async def read(self) -> Sequence[Checkpoint]:
        return await asyncio.to_thread(self._read)

    async def check(self) -> None:
        """Raise OSError when the file can't be written."""
        await asyncio.to_thread(self._write, [])

    def _write(self, checkpoints: Sequence[Checkpoint]) -> None:
        lines = "".join(json.dumps(each.document("anchor")) + "\n" for each in checkpoints)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            # A torn line of an earlier crash must not swallow the first line of this write.
            if lines and self._torn():
                lines = "\n" + lines
            os.write(descriptor, lines.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _torn(self) -> bool:
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _read(self) -> Sequence[Checkpoint]:
        if not self._path.exists():
            return []
        return read_anchors(self._path.read_text("utf-8").splitlines())
