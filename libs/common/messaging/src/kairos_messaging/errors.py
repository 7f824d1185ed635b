"""Errors a handler or a publisher meets; each states the fate of the message."""


class PublishFailed(Exception):  # noqa: N818 - reads as the fact it states
    """The broker did not confirm: the message may or may not have arrived. Publish it again, same id."""


class PermanentError(Exception):
    """No later attempt can succeed: the message goes to the dead letters at once. Handlers raise it."""


class InfrastructureUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """A server the handler needs is away: the consumer pauses, the message waits and keeps its attempts."""


class ConsumerLost(Exception):  # noqa: N818 - reads as the fact it states
    """This process does not get the messages of all its queues: report it unhealthy until it does."""
