"""Every fault point of the suite. A drill or a test can arm these names and no others."""

POINTS: dict[str, str] = {
    "bots.ingress.stored": "bot-worker: the channel message is committed, the channel has no 200 yet",
    "bots.turn.claimed": "bot-worker: a turn is claimed, its completion is not requested yet",
    "bots.send.accepted": "bot-worker: the channel accepted a reply, the delivery state is not committed yet",
    "router.completion.claimed": "llm-router: a completion is claimed, no attempt is written yet",
    "router.attempt.dispatched": "llm-router: the attempt row is committed, the provider is not called yet",
    "router.attempt.answered": "llm-router: the provider answered, the result is not committed yet",
    "budget.lease.granted": "budget-analytics: a lease is committed, the router has no answer yet",
    "budget.usage.posted": "budget-analytics: usage is posted, the message is not acknowledged yet",
    "auth.entry.chained": "auth-audit: an entry is chained, the message is not acknowledged yet",
    "auth.checkpoint.committed": "auth-audit: a checkpoint is committed, the anchor does not have it yet",
    "message.handled": "any service: the handler has committed, the message is not acknowledged yet",
    "message.moved": "any service: its retry or dead letter is confirmed, the original is not acknowledged",
    "outbox.claimed": "any service: outbox rows are claimed, none is published yet",
    "outbox.published": "any service: the broker confirmed a message, the outbox row is not marked yet",
}
