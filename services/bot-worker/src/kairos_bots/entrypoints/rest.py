"""How a worker loop waits: for a wake-up, or for its poll interval as a fallback."""

import asyncio


async def rest(wake: asyncio.Event, longest: float) -> None:
    """Return when the event is set or after `longest` seconds."""
    try:
        async with asyncio.timeout(longest):
            await wake.wait()
    except TimeoutError:
        return
