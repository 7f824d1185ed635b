import asyncio

from kairos_messaging.lanes import Lanes


async def test_turns_of_one_key_come_in_the_order_they_were_asked_for() -> None:
    lanes, order = Lanes(), []

    async def work(number: int) -> None:
        async with lanes.turn("key"):
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(work(number) for number in range(20)))
    assert order == list(range(20))


async def test_keys_do_not_wait_for_each_other_and_none_waits_for_nobody() -> None:
    lanes = Lanes()
    async with lanes.turn("a"), lanes.turn("b"), lanes.turn(None), lanes.turn(None):
        assert len(lanes) == 2


async def test_a_lane_disappears_with_its_last_user_even_a_cancelled_one() -> None:
    lanes = Lanes()
    async with lanes.turn("a"):
        waiting = asyncio.create_task(lanes.turn("a").__aenter__())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert len(lanes) == 1
    assert len(lanes) == 0
