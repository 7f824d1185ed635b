"""Prove that the money adds up, and say so loudly when it does not."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from kairos_budget.application.ports import Log, Meters, Money
from kairos_budget.application.readings import Finding


@dataclass(frozen=True, slots=True)
class CheckLedger:
    money: Money
    meters: Meters
    log: Log

    async def __call__(self, organisation_id: UUID | None = None, *, full: bool = False) -> Sequence[Finding]:
        """What does not add up, nothing when all is well.

        With an organisation: its own books only. Without: everybody's, and the metric is set.
        Not `full`: only what moved since the last check that found nothing.
        """
        scope = self.money.system() if organisation_id is None else self.money.tenant(organisation_id)
        async with scope as tx:
            findings = await tx.check_ledger(full=full)
        if organisation_id is None:
            self.meters.imbalance(sum(abs(each.stored - each.recomputed) for each in findings))
        for finding in findings:
            self.log.error(
                "ledger.imbalance",
                rule=finding.rule,
                subject=str(finding.subject),
                stored_nano_usd=finding.stored,
                recomputed_nano_usd=finding.recomputed,
            )
        return findings
