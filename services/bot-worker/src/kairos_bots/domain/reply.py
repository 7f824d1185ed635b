"""Cutting a long answer into parts that a channel accepts."""

TELEGRAM_LIMIT = 4096  # UTF-16 code units of one message: https://core.telegram.org/bots/api#sendmessage
_BREAKS = ("\n\n", "\n", ". ", " ")


def split_text(text: str, limit: int = TELEGRAM_LIMIT) -> tuple[str, ...]:
    """Parts of at most `limit` UTF-16 code units, cut at a paragraph, line, sentence or word where possible.

    White space at a cut is dropped; nothing else is. A blank text has no parts.
    """
    parts = []
    rest = text.strip()
    while rest:
        head = _longest_prefix(rest, limit)
        if len(head) < len(rest):
            head = rest[: _cut(head, follows=rest[len(head)])]
        parts.append(head.rstrip())
        rest = rest[len(head) :].lstrip()
    return tuple(part for part in parts if part)


def _longest_prefix(text: str, limit: int) -> str:
    if len(text) * 2 <= limit:
        return text
    units = 0
    for index, character in enumerate(text):
        units += 2 if ord(character) > 0xFFFF else 1  # noqa: PLR2004 - the last code point of one UTF-16 unit
        if units > limit:
            return text[: max(index, 1)]
    return text


def _cut(head: str, follows: str) -> int:
    if follows.isspace():
        return len(head)
    for mark in _BREAKS:
        at = head.rfind(mark)
        if at > len(head) // 2:
            return at + len(mark)
    return len(head)
