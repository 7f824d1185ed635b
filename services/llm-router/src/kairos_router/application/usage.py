"""The event that reports an attempt's tokens and money."""

from kairos_contracts.llm.v1 import UsageRecordedV1
from kairos_router.domain.attempt import Attempt, Settlement


def usage_event(attempt: Attempt, settlement: Settlement) -> UsageRecordedV1:
    caller, deployment = attempt.hold.caller, attempt.deployment
    return UsageRecordedV1(
        attempt_id=attempt.attempt_id,
        completion_id=attempt.completion_id,
        lease_id=attempt.hold.lease_id,
        project_id=caller.scope.project_id,
        bot_id=caller.scope.bot_id,
        api_key_id=caller.api_key_id,
        model=deployment.model,
        deployment=deployment.name,
        provider=deployment.provider,
        input_tokens=settlement.usage.input_tokens,
        output_tokens=settlement.usage.output_tokens,
        hold_nano_usd=attempt.hold.amount,
        cost_nano_usd=settlement.cost,
        outcome=settlement.outcome,
        price_version=deployment.price.version,
        status=settlement.status,
        streaming=attempt.stream,
        started_at=attempt.started_at,
        latency_ms=settlement.latency_ms,
        time_to_first_token_ms=settlement.time_to_first_token_ms,
    )
