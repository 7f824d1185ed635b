"""What /v1 offers, as data.

Add an operation: write its handler in a module of its own and put it into the table of `bootstrap`.
A handler gets an Exchange whose caller is known and may do this, whom the quotas admit, and whose body
is parsed. It answers by the exchange, or raises: what `explain` can explain becomes OpenAI's envelope.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from kairos_contracts.permissions import Permission
from kairos_router.entrypoints.exchange import Exchange

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One address and method. `template` may end in one `{parameter}`; it labels metrics and spans.

    `kind` is the operation in usage records and quotas; what calls no provider has none. A POST has a body.
    """

    method: str
    template: str
    permission: Permission
    handle: Handler
    kind: str = ""


class Operations:
    """The table: path -> method -> operation."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._fixed: dict[str, dict[str, Operation]] = {}
        self._prefixes: dict[str, dict[str, Operation]] = {}
        for operation in operations:
            prefix, brace, _ = operation.template.partition("{")
            table = self._prefixes if brace else self._fixed
            table.setdefault(prefix, {})[operation.method] = operation

    def at(self, path: str) -> dict[str, Operation]:
        """The operations at a path by method; empty when there is nothing."""
        found = self._fixed.get(path)
        if found is not None:
            return found
        # A parameter may hold slashes: names of models do.
        return next((at for start, at in self._prefixes.items() if _below(path, start)), {})


def _below(path: str, start: str) -> bool:
    return path.startswith(start) and len(path) > len(start)
