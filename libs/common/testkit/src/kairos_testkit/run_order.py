"""How the workers of one run share its files: no file is split, and two whole suites seldom run at once.

A run is one line of files: those that need a whole suite, then those that need no server, then the rest.
The first worker takes files from its front, the others from its end, so they meet among the small ones: no
worker is left alone with a long file, and the suites run after one another on one worker, which starts the
shared one once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped] # xdist ships no types

if TYPE_CHECKING:
    import pytest
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped] # xdist ships no types

# Fixtures that keep a whole suite running, in the order their files run. A file of two comes between.
SUITES: Final = ("stack", "fragile")


class FromBothEnds(LoadFileScheduling):  # type: ignore[misc] # its base has no type
    """Files in the order they were collected; the first worker takes the next, all others the last."""

    def __init__(self, config: pytest.Config, log: object = None) -> None:
        super().__init__(config, log)
        # xdist would put files with many tests first, and those that start a suite for one test last.
        config.option.loadscopereorder = False

    def _assign_work_unit(self, node: WorkerController) -> None:
        if node is not self.nodes[0]:
            self.workqueue.move_to_end(next(reversed(self.workqueue)), last=False)
        super()._assign_work_unit(node)


def position(fixtures: Collection[str], marks: Collection[str], tests: int) -> tuple[int, int, int]:
    """Where in the line a file belongs that uses these fixtures and marks and has so many tests."""
    if "stack" in marks:
        used = [number for number, name in enumerate(SUITES) if name in fixtures]
        # A suite of a test's own comes last: another worker that has nothing else to do can take it.
        return (0, min(used), max(used)) if used else (0, len(SUITES), 0)
    return (2, tests, 0) if "servers" in marks or "servers" in fixtures else (1, 0, 0)


def in_line(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests of a run in the order of the line; those of one file stay as they were."""
    files: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.nodeid.partition("::")[0]].append(item)

    def place(file: str) -> tuple[int, int, int]:
        tests = files[file]
        fixtures = {name for item in tests for name in getattr(item, "fixturenames", ())}
        marks = {mark.name for item in tests for mark in item.iter_markers()}
        return position(fixtures, marks, len(tests))

    return [item for file in sorted(files, key=place) for item in files[file]]
