"""What must hold after a storm, read from database, channel and provider, not from what services say."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

UNPUBLISHED = "SELECT count(*) FROM {}.outbox WHERE published_at IS NULL"
UNFINISHED = "SELECT count(*) FROM router.completions WHERE state IN ('pending', 'running')"
RECEIVED = """
    SELECT c.external_chat_id AS chat, m.text FROM bots.messages m
    JOIN bots.conversations c ON c.id = m.conversation_id
    WHERE m.direction = 'in' ORDER BY c.external_chat_id, m.sequence
"""
REPLIES = """
    SELECT c.external_chat_id AS chat, m.id, m.turn_id, m.text, m.delivery, m.ambiguous FROM bots.messages m
    JOIN bots.conversations c ON c.id = m.conversation_id
    WHERE m.direction = 'out' ORDER BY c.external_chat_id, m.sequence
"""
TURNS_WITHOUT_ONE_REPLY = """
    SELECT t.id, count(m.id) FILTER (WHERE m.direction = 'out') AS replies FROM bots.turns t
    LEFT JOIN bots.messages m ON m.turn_id = t.id GROUP BY t.id
    HAVING count(m.id) FILTER (WHERE m.direction = 'out') <> 1
"""
MESSAGES_ANSWERED_BY_THE_MODEL = """
    SELECT count(*) FROM bots.messages m JOIN bots.turns t ON t.id = m.turn_id
    WHERE m.direction = 'in' AND t.state = 'answered' AND t.source = 'model'
"""
OTHER_ANSWERS = "SELECT source, count(*) AS n FROM bots.turns WHERE source <> 'model' GROUP BY source"
SETTLED_BY_TRANSFERS = """
    SELECT p.id, p.settled_nano, sum(t.amount_nano) FILTER (WHERE t.target = 'settled') AS gained,
           sum(t.amount_nano) FILTER (WHERE t.source = 'settled') AS lost
    FROM budget.budget_periods p LEFT JOIN budget.transfers t ON t.period_id = p.id
    GROUP BY p.id, p.settled_nano
"""
OVER_LIMIT = """
    SELECT id, limit_nano, settled_nano + leased_nano + suspense_nano AS committed FROM budget.budget_periods
    WHERE settled_nano + leased_nano + suspense_nano > limit_nano
"""
SCHEMAS = ("bots", "router", "budget", "auth", "ops")


@dataclass
class Report:
    """Counts as Jepsen reports them, and every breach in words."""

    attempted: int = 0
    acknowledged: int = 0
    answered: int = 0
    lost: int = 0
    unexpected: int = 0
    duplicated: int = 0
    resent_after_ambiguous_send: int = 0
    out_of_order: int = 0
    turns: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    seconds_to_recover: float = 0.0
    provider_nano_usd: int = 0
    ledger_nano_usd: int = 0
    unknown_attempts_reconciled: int = 0
    budget_samples: int = 0
    breaches: list[str] = field(default_factory=list)
    # Name of a process -> the end of its log, where something did not heal.
    logs: dict[str, str] = field(default_factory=dict)

    def breach(self, text: str) -> None:
        self.breaches.append(text)


class Truth:
    """Reads the suite's database as its administrator."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self._connection.execute("SELECT set_config('kairos.system', 'on', false)")

    def close(self) -> None:
        self._connection.close()

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        return list(self._connection.execute(query, values))  # type: ignore[call-overload] # the suite's own fixed texts

    def value(self, query: str, *values: object) -> Any:
        (row,) = self.rows(query, *values)
        return next(iter(row.values()))

    def open_work(self) -> dict[str, int]:
        """What still waits somewhere; all zero is quiet."""
        waiting = {f"outbox {schema}": self.value(UNPUBLISHED.format(schema)) for schema in SCHEMAS}
        waiting["turns"] = self.value("SELECT count(*) FROM bots.turns WHERE state <> 'answered'")
        waiting["replies"] = self.value("SELECT count(*) FROM bots.replies")
        waiting["completions"] = self.value(UNFINISHED)
        waiting["attempts"] = self.value("SELECT count(*) FROM router.attempts WHERE state = 'dispatched'")
        return {name: count for name, count in waiting.items() if count}

    def received(self) -> dict[str, list[str]]:
        """Chat -> texts of its messages, in the order the conversation gives them."""
        found: dict[str, list[str]] = {}
        for row in self.rows(RECEIVED):
            found.setdefault(row["chat"], []).append(row["text"])
        return found

    def replies(self) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows(REPLIES):
            found.setdefault(row["chat"], []).append(row)
        return found


def check_messages(truth: Truth, intended: Mapping[str, Sequence[str]], report: Report) -> None:
    """I1, I2, I3, I8: every message is in exactly one turn, in order; every turn has one reply."""
    received = truth.received()
    for chat, texts in intended.items():
        got = received.get(chat, [])
        report.attempted += len(texts)
        missing, extra = Counter(texts) - Counter(got), Counter(got) - Counter(texts)
        report.lost += missing.total()
        report.duplicated += extra.total()
        for text in missing:
            report.breach(f"I1 lost: {text}")
        for text in extra:
            report.breach(f"I3 stored twice: {text}")
        if not missing and not extra and got != list(texts):
            report.out_of_order += 1
            report.breach(f"I8 order of chat {chat}: {got}")
    for chat in received.keys() - intended.keys():
        report.unexpected += len(received[chat])
        report.breach(f"I2 unexpected chat {chat}")
    report.turns = truth.value("SELECT count(*) FROM bots.turns")
    for row in truth.rows(TURNS_WITHOUT_ONE_REPLY):
        report.breach(f"I3 turn {row['id']} has {row['replies']} replies")
    report.answered = truth.value(MESSAGES_ANSWERED_BY_THE_MODEL)
    for row in truth.rows(OTHER_ANSWERS):
        report.breach(f"I1 {row['n']} turns were answered by {row['source']}, not by the model")


def check_channel(truth: Truth, sent: Mapping[str, Sequence[str]], report: Report) -> None:
    """Each reply reached the channel once and in order; only a send in flight at a kill may repeat."""
    for chat, replies in truth.replies().items():
        expected = [reply["text"] for reply in replies]
        got = list(sent.get(chat, []))
        repeats = Counter(got) - Counter(expected)
        allowed = Counter({reply["text"]: reply["ambiguous"] for reply in replies if reply["ambiguous"]})
        report.resent_after_ambiguous_send += (repeats & allowed).total()
        for text in repeats - allowed:
            report.duplicated += 1
            report.breach(f"I3 chat {chat} got twice: {text}")
        for text in Counter(expected) - Counter(got):
            report.lost += 1
            report.breach(f"I1 chat {chat} never got: {text}")
        if list(dict.fromkeys(got)) != expected and not Counter(expected) - Counter(got):
            report.out_of_order += 1
            report.breach(f"I8 chat {chat} got replies in another order")
        report.acknowledged += len([reply for reply in replies if reply["delivery"] == "sent"])


def check_money(truth: Truth, provider: Mapping[str, int], report: Report) -> None:
    """I5: the ledger is the provider's own count, attempt by attempt; accounts balance."""
    posted = {
        str(row["id"]): row["cost_nano"]
        for row in truth.rows("SELECT id, cost_nano FROM budget.attempts WHERE outcome = 'settled'")
    }
    report.provider_nano_usd, report.ledger_nano_usd = sum(provider.values()), sum(posted.values())
    for attempt in provider.keys() - posted.keys():
        report.breach(f"I5 the provider billed attempt {attempt}, the ledger has it not")
    for attempt in posted.keys() - provider.keys():
        report.breach(f"I5 the ledger has attempt {attempt}, the provider never billed it")
    for attempt in posted.keys() & provider.keys():
        if posted[attempt] != provider[attempt]:
            report.breach(f"I5 attempt {attempt}: ledger {posted[attempt]}, provider {provider[attempt]}")
    unresolved = truth.value("SELECT count(*) FROM budget.attempts WHERE outcome = 'unknown'")
    if unresolved:
        report.breach(f"I4 {unresolved} attempts are still unknown")
    for row in truth.rows(SETTLED_BY_TRANSFERS):
        if (row["gained"] or 0) - (row["lost"] or 0) != row["settled_nano"]:
            report.breach(f"I5 period {row['id']}: transfers and balance differ")


def over_limit(truth: Truth) -> list[str]:
    """Periods in which settled + held passes the limit right now."""
    rows = truth.rows(OVER_LIMIT)
    return [f"I5 period {row['id']}: {row['committed']} of {row['limit_nano']}" for row in rows]
