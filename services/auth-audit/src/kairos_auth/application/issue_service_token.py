"""Give a service that knows its secret a token of a few minutes."""

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from kairos_auth.application.ports import TokenIssuer, Transactions
from kairos_auth.domain.errors import UnknownService
from kairos_contracts.audit import AuditContext
from kairos_contracts.permissions import SERVICE_GRANTS


@dataclass(frozen=True)
class IssueServiceToken:
    transactions: Transactions
    issuer: TokenIssuer
    service_secrets: Mapping[str, str] = field(repr=False)

    async def __call__(
        self, service: str, secret: str, audience: str, context: AuditContext
    ) -> tuple[str, int]:
        """The token and the seconds it lives. Raises UnknownService; that is audited."""
        # An unknown name is compared too, so that the time tells nothing.
        expected = self.service_secrets.get(service) or secrets.token_hex()
        right = hmac.compare_digest(expected.encode(), secret.encode())
        if not right or service not in SERVICE_GRANTS:
            await self._record_failure(service, context)
            raise UnknownService
        return self.issuer.issue(service, audience)

    async def _record_failure(self, service: str, context: AuditContext) -> None:
        target = service if service in SERVICE_GRANTS else "unknown"
        async with self.transactions.system() as transaction:
            transaction.emit(
                context.entry("session.failed", f"service:{target}", outcome="failed", reason="wrong secret"),
                None,
            )
