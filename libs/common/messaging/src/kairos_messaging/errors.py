"""Errors a handler or a publisher meets; each states the fate of the message."""


class PublishFailed(Exception):  # noqa: N818 - reads as the fact it states
    """The broker did not confirm the message: it may or may not have arrived. Publish it again with the same id."""


class PermanentError(Exception):
    """No later attempt can succeed: the message goes to the dead letters at once. Raise or subclass it in handlers."""


class InfrastructureUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """A server the handler needs is away: the consumer pauses and tries the same message again, no attempt is burnt."""


class ConsumerLost(Exception):  # noqa: N818 - reads as the fact it states
    """The broker no longer delivers one of our queues to this process: report unhealthy, a restart repairs it."""
