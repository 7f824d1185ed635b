"""What can be wrong with a request or a message; the docstring is what the caller reads."""


class BotUnknownError(LookupError):
    """There is no such bot."""


class ConversationUnknownError(LookupError):
    """There is no such conversation."""


class MalformedUpdateError(ValueError):
    """The body is not a Telegram update."""


class WrongSecretError(PermissionError):
    """The webhook's secret header is missing or wrong."""


class NotReadyError(RuntimeError):
    """The bots have not been read from the database since the start; try again shortly."""


class ChannelClosedError(PermissionError):
    """This bot does not answer on this channel."""


class UnreadableSecretError(RuntimeError):
    """The secret was sealed under a key we do not have, or was tampered with or moved."""


class InvalidBotError(ValueError):
    """The bot's settings contradict each other."""
