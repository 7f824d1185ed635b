"""What the feed shows of a message that is too large to show whole."""

from collections import Counter
from typing import Any

from kairos_contracts.llm.v1 import UsageBatchRecordedV1

# A batch of hundreds of attempts becomes one event of at most this many names per list.
MOST_NAMES = 20


def usage_batch_digest(batch: UsageBatchRecordedV1) -> dict[str, Any]:
    """Sums of a usage batch, with the same names as a single attempt's event; the records stay away.

    `models` and `deployments` count attempts, the most used first; `more` is how many names were cut.
    """
    records = batch.records
    models = Counter(record.model for record in records)
    deployments = Counter(record.deployment for record in records)
    return {
        "batch_id": str(batch.batch_id),
        "attempts": len(records),
        "cost_nano_usd": sum(record.cost_nano_usd for record in records),
        "input_tokens": sum(record.input_tokens for record in records),
        "output_tokens": sum(record.output_tokens for record in records),
        "errors": sum(record.error is not None for record in records),
        "cache_hits": sum(record.cache is not None for record in records),
        "outcomes": dict(Counter(record.outcome for record in records)),
        "models": dict(models.most_common(MOST_NAMES)),
        "deployments": dict(deployments.most_common(MOST_NAMES)),
        "more": max(len(models) - MOST_NAMES, 0) + max(len(deployments) - MOST_NAMES, 0),
        "slowest_ms": max(record.latency_ms for record in records),
        "first_started_at": min(record.started_at for record in records).isoformat(),
        "last_started_at": max(record.started_at for record in records).isoformat(),
    }
