"""The invariants of the ledger, as queries. Each reads one snapshot, so traffic does not disturb it."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.application.readings import Finding
from kairos_budget.domain.ledger import SOURCES, Account

_ACCOUNTS = [account.value for account in Account]


def _net(account: Account) -> str:
    out, into = ("amount_nano", "-amount_nano") if account in SOURCES else ("-amount_nano", "amount_nano")
    return (
        f"coalesce(sum(CASE WHEN t.source = '{account.value}' THEN {out}"
        f" WHEN t.target = '{account.value}' THEN {into} END), 0)::bigint AS {account.value}_nano"
    )


_MOVED = ", ".join(_net(account) for account in Account)
_SAME = " AND ".join(f"p.{name}_nano = coalesce(c.{name}_nano, 0) + m.{name}_nano" for name in _ACCOUNTS)
_NAMES = ", ".join(f"{name}_nano" for name in _ACCOUNTS)
_SUMS = ", ".join(
    f"coalesce(c.{name}_nano, 0) + m.{name}_nano AS {name}_now, p.{name}_nano" for name in _ACCOUNTS
)
_NOW = ", ".join(f"{name}_now" for name in _ACCOUNTS)

# Transfers of a period are written while its row is locked, so their sequence is also their commit order and
# a checkpoint at the newest one a snapshot sees misses none. `:full` ignores the checkpoints.
_COMPARE = text(f"""
WITH compared AS (
    SELECT p.id, p.organisation_id, p.version, greatest(m.newest, coalesce(c.sequence, 0)) AS newest,
        ({_SAME}) AS balanced, {_SUMS}
    FROM budget_periods p
    LEFT JOIN ledger_checkpoints c ON c.period_id = p.id AND NOT CAST(:full AS boolean)
    CROSS JOIN LATERAL (
        SELECT coalesce(max(t.sequence), 0) AS newest, {_MOVED}
        FROM transfers t WHERE t.period_id = p.id AND t.sequence > coalesce(c.sequence, 0)
    ) m
    WHERE c.version IS DISTINCT FROM p.version
), kept AS (
    INSERT INTO ledger_checkpoints (period_id, organisation_id, sequence, version, {_NAMES})
    SELECT id, organisation_id, newest, version, {_NOW} FROM compared WHERE balanced
    ON CONFLICT (period_id) DO UPDATE SET sequence = excluded.sequence, version = excluded.version,
        {", ".join(f"{name}_nano = excluded.{name}_nano" for name in _ACCOUNTS)}
    WHERE ledger_checkpoints.version < excluded.version
)
SELECT * FROM compared WHERE NOT balanced ORDER BY id
""")  # noqa: S608 - composed of account names

_HELD = text("""
SELECT p.id, p.leased_nano, p.suspense_nano, coalesce(a.leased, 0)::bigint AS leased,
    (coalesce(a.suspense, 0) + coalesce(h.held, 0))::bigint AS suspense
FROM budget_periods p
LEFT JOIN LATERAL (
    SELECT sum(leased_nano) AS leased, sum(suspense_nano) AS suspense FROM lease_allocations
    WHERE period_id = p.id AND (leased_nano > 0 OR suspense_nano > 0)
) a ON true
LEFT JOIN LATERAL (SELECT sum(amount_nano) AS held FROM attempt_holds WHERE period_id = p.id) h ON true
WHERE p.leased_nano <> coalesce(a.leased, 0)
    OR p.suspense_nano <> coalesce(a.suspense, 0) + coalesce(h.held, 0)
ORDER BY p.id
""")

# A rolling period's settled money is in its buckets, or it could never leave the window.
_WINDOWS = text("""
SELECT p.id, p.settled_nano, coalesce(sum(k.settled_nano), 0)::bigint AS bucketed
FROM budget_periods p JOIN budgets b ON b.id = p.budget_id AND b.period = 'rolling'
LEFT JOIN period_buckets k ON k.period_id = p.id
GROUP BY p.id, p.settled_nano HAVING p.settled_nano <> coalesce(sum(k.settled_nano), 0) ORDER BY p.id
""")

# What one attempt moved into settled must be its cost, in every period it touched: charged once, in full.
_CHARGED = (
    "sum(CASE WHEN t.target = 'settled' THEN t.amount_nano"
    " WHEN t.source = 'settled' THEN -t.amount_nano ELSE 0 END)"
)
_RESOLVED_ONCE = text(f"""
WITH touched AS (
    SELECT DISTINCT t.attempt_id FROM transfers t
    WHERE t.attempt_id IS NOT NULL AND t.kind <> 'reversal'
        AND (CAST(:full AS boolean) OR t.created_at > clock_timestamp() - interval '5 minutes')
        AND t.sequence > CASE WHEN CAST(:full AS boolean) THEN 0 ELSE CAST(:since AS bigint) END
)
SELECT t.attempt_id, a.cost_nano AS stored, {_CHARGED}::bigint AS charged
FROM touched JOIN transfers t USING (attempt_id) LEFT JOIN attempts a ON a.id = t.attempt_id
WHERE t.kind <> 'reversal'
GROUP BY t.attempt_id, t.period_id, a.cost_nano
HAVING a.cost_nano IS DISTINCT FROM {_CHARGED}
ORDER BY t.attempt_id LIMIT 1000
""")  # noqa: S608 - composed of a constant
# Attempts that were posted together: the header of a posting is what its attempts cost in sum, and that, no
# more and no less, moved into settled of every period it names. An attempt has one row and names one posting,
# so each moved its cost exactly once. Attempts are summed posting by posting: the planner, who can't see how
# many are recent, would sum all of them again for every posting.
_POSTED = text("""
WITH newest AS (
    SELECT *, sum(attempts) OVER (ORDER BY sequence DESC) - attempts AS later FROM postings
    WHERE CAST(:full AS boolean) OR (created_at > clock_timestamp() - interval '5 minutes'
        AND sequence > (SELECT coalesce(max(sequence), 0) FROM postings) - CAST(:recent AS bigint))
), looked AS MATERIALIZED (
    SELECT * FROM newest WHERE CAST(:full AS boolean) OR later < CAST(:attempts AS bigint)
), moved AS (
    SELECT t.posting_id AS id, t.period_id,
        sum(CASE WHEN t.target = 'settled' THEN t.amount_nano ELSE -t.amount_nano END) AS cost
    FROM looked p JOIN transfers t ON t.posting_id = p.id GROUP BY 1, 2
), owed AS (
    SELECT id, unnest(period_ids) AS period_id, cost_nano FROM looked
)
SELECT 'posting_of_attempts' AS rule, p.id, p.cost_nano AS stored, a.cost::bigint AS recomputed
FROM looked p CROSS JOIN LATERAL (
    SELECT count(*) AS attempts, coalesce(sum(cost_nano), 0) AS cost FROM attempts
    WHERE posting_id = p.id AND outcome = 'settled'
) a
WHERE p.cost_nano <> a.cost OR p.attempts <> a.attempts
UNION ALL
SELECT 'posting_charged_once', id, coalesce(o.cost_nano, 0), coalesce(m.cost, 0)::bigint
FROM owed o FULL JOIN moved m USING (id, period_id) WHERE o.cost_nano IS DISTINCT FROM m.cost
ORDER BY 2, 1 LIMIT 1000
""")
# A settled attempt that cost something is either in a posting that exists or was moved by itself.
_UNPOSTED = text("""
SELECT a.id, a.cost_nano FROM attempts a
WHERE a.cost_nano > 0 AND (CAST(:full AS boolean) OR a.recorded_at > clock_timestamp() - interval '5 minutes')
    AND a.posting_id IS NOT NULL AND NOT EXISTS (SELECT FROM postings p WHERE p.id = a.posting_id)
ORDER BY a.id LIMIT 1000
""")
_ADJUSTED = text("""
WITH moved AS (
    SELECT t.adjustment_id AS id, t.period_id,
        sum(CASE WHEN t.target = 'settled' THEN t.amount_nano ELSE -t.amount_nano END) AS amount
    FROM transfers t WHERE t.adjustment_id IS NOT NULL GROUP BY 1, 2
), owed AS (
    SELECT id, unnest(period_ids) AS period_id, amount_nano FROM adjustments
)
SELECT id, coalesce(o.amount_nano, 0) AS stored, coalesce(m.amount, 0)::bigint AS recomputed
FROM owed o FULL JOIN moved m USING (id, period_id) WHERE o.amount_nano IS DISTINCT FROM m.amount
ORDER BY id LIMIT 1000
""")
_RECENT_POSTINGS = 5_000
# Of those, as many as hold this many attempts: the check of every minute stays a matter of a second.
_RECENT_ATTEMPTS = 200_000
_RECENT = 20_000
_NEWEST = text("SELECT coalesce(max(sequence), 0) FROM transfers")


async def check(session: AsyncSession, *, full: bool) -> list[Finding]:
    newest = (await session.execute(_NEWEST)).scalar_one()
    findings = [
        Finding("settled_equals_buckets", row.id, row.settled_nano, row.bucketed)
        for row in await session.execute(_WINDOWS)
    ]
    for row in await session.execute(_HELD):
        if row.leased_nano != row.leased:
            findings.append(Finding("leased_equals_leases", row.id, row.leased_nano, row.leased))
        if row.suspense_nano != row.suspense:
            findings.append(Finding("suspense_equals_holds", row.id, row.suspense_nano, row.suspense))
    resolved = await session.execute(_RESOLVED_ONCE, {"full": full, "since": max(newest - _RECENT, 0)})
    findings += [
        Finding("attempt_charged_once", row.attempt_id, row.stored or 0, row.charged) for row in resolved
    ]
    findings += await _postings(session, full=full)
    # Last, because it writes: another check waits for what this one has written until it is committed.
    findings += [
        Finding(f"{name}_equals_transfers", row.id, getattr(row, f"{name}_nano"), getattr(row, f"{name}_now"))
        for row in await session.execute(_COMPARE, {"full": full})
        for name in _ACCOUNTS
        if getattr(row, f"{name}_nano") != getattr(row, f"{name}_now")
    ]
    return findings


async def _postings(session: AsyncSession, *, full: bool) -> list[Finding]:
    recent = {"recent": _RECENT_POSTINGS, "attempts": _RECENT_ATTEMPTS}
    posted = await session.execute(_POSTED, {"full": full, **recent})
    findings = [Finding(row.rule, row.id, row.stored, row.recomputed) for row in posted]
    findings += [
        Finding("attempt_posted", row.id, row.cost_nano, 0)
        for row in await session.execute(_UNPOSTED, {"full": full})
    ]
    findings += [
        Finding("adjusted_once", row.id, row.stored, row.recomputed)
        for row in await session.execute(_ADJUSTED)
    ]
    return findings
