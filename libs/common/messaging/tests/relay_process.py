"""A relay in a process of its own, killed at a fault point. Run as a program by test_relay."""

import asyncio
import sys

from kairos_faults import arm_all
from kairos_messaging import Bus, OutboxRelay
from kairos_persistence import Database, create_engine


async def main(broker: str, postgres: str, faults: str) -> None:
    arm_all(faults)
    bus = Bus(broker, service="bot-worker")
    await bus.start()
    database = Database(create_engine(postgres, application_name="relay"), service="bot-worker")
    await OutboxRelay(database, bus).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
