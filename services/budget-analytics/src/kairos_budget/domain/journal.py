"""The ledger for other programs: lines of CSV, and a double-entry journal as beancount reads it.

Every budget keeps its own books: the same spend stands in each budget that bore it. `available`, `leased` and
`suspense` are assets, `settled` is an expense, `limit` and `excess` are where the money came from.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from kairos_budget.domain.ledger import SOURCES, Account
from kairos_budget.domain.money import NANO_PER_USD

_TYPES = {
    Account.AVAILABLE: "Assets",
    Account.LEASED: "Assets",
    Account.SUSPENSE: "Assets",
    Account.SETTLED: "Expenses",
    Account.LIMIT: "Equity",
    Account.EXCESS: "Equity",
}
CSV_HEADER = (
    "sequence,at,kind,budget_id,budget,period_start,debit,credit,amount_usd,currency,amount,rate,rate_day,"
    "lease_id,attempt_id,posting_id,adjustment_id"
)


@dataclass(frozen=True, slots=True)
class Rate:
    """Units of a currency for one USD since a day."""

    currency: str
    day: date
    per_usd: Decimal
    source: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One transfer: `amount` nano-USD left the account `source` and entered `target`."""

    sequence: int
    at: datetime
    kind: str
    budget_id: UUID
    budget: str
    period_start: datetime
    source: Account
    target: Account
    amount: int
    lease_id: UUID | None
    attempt_id: UUID | None
    posting_id: UUID | None
    adjustment_id: UUID | None


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account of a budget held; negative for the sources, which gave it."""

    budget_id: UUID
    budget: str
    account: Account
    nano: int


# A spreadsheet may read the wide forms as the plain ones.
_FORMULA = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")


def dollars(nano: int) -> str:
    return f"{Decimal(nano) / NANO_PER_USD:.9f}"


def converted(nano: int, rate: Rate) -> str:
    """In the rate's currency, to six decimals, half to even."""
    return f"{Decimal(nano) * rate.per_usd / NANO_PER_USD:.6f}"


def rate_on(rates: Iterable[Rate], day: date) -> Rate | None:
    """The latest of the rates, given oldest first, that was valid on the day."""
    found = None
    for rate in rates:
        if rate.day <= day:
            found = rate
    return found


def csv_line(entry: Entry, rates: tuple[Rate, ...]) -> str:
    rate = rate_on(rates, entry.at.date()) if rates else None
    fields = (
        entry.sequence,
        entry.at.isoformat(),
        entry.kind,
        entry.budget_id,
        _quoted(entry.budget),
        entry.period_start.isoformat(),
        entry.target.value,
        entry.source.value,
        dollars(entry.amount),
        rate.currency if rate else "",
        converted(entry.amount, rate) if rate else "",
        rate.per_usd if rate else "",
        rate.day.isoformat() if rate else "",
        entry.lease_id or "",
        entry.attempt_id or "",
        entry.posting_id or "",
        entry.adjustment_id or "",
    )
    return ",".join(map(str, fields))


def _quoted(text: str) -> str:
    """A cell that a spreadsheet takes for a formula is made text."""
    line = _one_line(text)
    safe = f"'{line}" if line.lstrip()[:1] in _FORMULA else line
    return '"' + safe.replace('"', '""') + '"'


def _one_line(text: str) -> str:
    """Without line breaks of any kind and other controls, which would begin a line or cell of their own."""
    return "".join(each if each.isprintable() else " " for each in text)


def account_name(budget_id: UUID, account: Account) -> str:
    return f"{_TYPES[account]}:Kairos:B{budget_id.hex.upper()}:{account.value.capitalize()}"


def journal_head(budgets: Iterable[tuple[UUID, str]], opened: date) -> Iterator[str]:
    yield 'option "title" "Kairos ledger"'
    yield 'option "operating_currency" "USD"'
    yield 'option "inferred_tolerance_default" "USD:0"'
    yield ""
    for budget_id, name in budgets:
        yield f"; {_one_line(name)}"
        for account in Account:
            yield f"{opened.isoformat()} open {account_name(budget_id, account)} USD"
    yield ""


def journal_opening(balances: Iterable[Balance], day: date) -> Iterator[str]:
    """One entry per budget with what its accounts held before the journal begins."""
    by_budget: dict[UUID, list[Balance]] = {}
    for balance in balances:
        if balance.nano:
            by_budget.setdefault(balance.budget_id, []).append(balance)
    for budget_id, held in by_budget.items():
        yield f'{day.isoformat()} * "opening" "{_text(held[0].budget)}"'
        for balance in held:
            yield f"  {account_name(budget_id, balance.account)}  {dollars(balance.nano)} USD"
        yield ""


def journal_entry(entry: Entry) -> Iterator[str]:
    yield f'{entry.at.date().isoformat()} * "{entry.kind}" "{_text(entry.budget)}"'
    yield f"  sequence: {entry.sequence}"
    yield f"  period: {entry.period_start.date().isoformat()}"
    for name in ("lease_id", "attempt_id", "posting_id", "adjustment_id"):
        value = getattr(entry, name)
        if value is not None:
            yield f'  {name.replace("_id", "")}: "{value}"'
    yield f"  {account_name(entry.budget_id, entry.target)}  {dollars(entry.amount)} USD"
    yield f"  {account_name(entry.budget_id, entry.source)}  {dollars(-entry.amount)} USD"
    yield ""


def _text(name: str) -> str:
    return _one_line(name).replace("\\", " ").replace('"', "'")


def signed(account: Account, nano: int) -> int:
    """A balance as double entry counts it: sources are negative, so that all accounts add up to nothing."""
    return -nano if account in SOURCES else nano
