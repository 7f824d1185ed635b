"""The event that reports an attempt's tokens and money."""

from typing import Any

from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_router.domain.attempt import Attempt, Settlement


def usage_fields(attempt: Attempt, settlement: Settlement) -> dict[str, Any]:
    """The fields of UsageRecordedV1. What has its default is left out: a hot request pays for each field."""
    hold, deployment, usage = attempt.hold, attempt.deployment, settlement.usage
    caller = hold.caller
    scope = caller.scope
    fields: dict[str, Any] = {
        "attempt_id": attempt.attempt_id,
        "completion_id": attempt.completion_id,
        "lease_id": hold.lease_id,
        "project_id": scope.project_id,
        "bot_id": scope.bot_id,
        "api_key_id": caller.api_key_id,
        "model": deployment.model,
        "deployment": deployment.name,
        "provider": deployment.provider,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "hold_nano_usd": hold.amount,
        "cost_nano_usd": settlement.cost,
        "outcome": settlement.outcome,
        "price_version": deployment.price.version,
        "status": settlement.status,
        "streaming": attempt.stream,
        "started_at": attempt.started_at,
        "latency_ms": settlement.latency_ms,
        "time_to_first_token_ms": settlement.time_to_first_token_ms,
    }
    seldom: tuple[tuple[str, Any], ...] = (
        ("route", attempt.route),
        ("operation", None if attempt.operation == "chat" else attempt.operation),
        ("team_id", scope.team_id),
        ("contact_id", scope.contact_id),
        ("priority", caller.priority),
        ("cached_input_tokens", usage.cached_input_tokens),
        ("estimated", usage.estimated),
        ("error", settlement.error),
    )
    if not usage.plain:
        seldom += (
            ("cache_write_tokens", usage.cache_write_tokens + usage.cache_write_1h_tokens),
            ("reasoning_tokens", usage.reasoning_tokens),
            ("audio_input_tokens", usage.audio_input_tokens),
            ("audio_output_tokens", usage.audio_output_tokens),
        )
    fields |= {name: value for name, value in seldom if value}
    return fields


def usage_event(attempt: Attempt, settlement: Settlement) -> UsageRecordedV1:
    return UsageRecordedV1(**usage_fields(attempt, settlement))
