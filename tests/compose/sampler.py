"""How many connections Postgres and Valkey have, from whom: run within a container, for so many seconds.

Prints, as JSON, the most that there were at once: of each address, and of all together. Its own do not count.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import asyncpg
from redis.asyncio import Redis

SECRETS = Path("/run/assistantd")
EVERY = 0.05
ASK = "SELECT host(client_addr) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND pid <> pg_backend_pid()"


class Most:
    """The most that was seen of each, and of all at once."""

    def __init__(self) -> None:
        self.each: Counter[str] = Counter()
        self.together = 0

    def see(self, addresses: list[str]) -> None:
        """Take one look."""
        self.each |= Counter(addresses)
        self.together = max(self.together, len(addresses))


async def watch(seconds: float) -> dict[str, Most]:
    """Look, again and again."""
    postgres, valkey = Most(), Most()
    database = await asyncpg.connect((SECRETS / "DATABASE_URL").read_text(), timeout=10)
    async with Redis.from_url((SECRETS / "REDIS_URL").read_text(), socket_timeout=10) as broker:
        me = str(await broker.client_id())
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            postgres.see([row[0] for row in await database.fetch(ASK)])
            clients = await broker.client_list()
            valkey.see([each["addr"].rpartition(":")[0] for each in clients if each["id"] != me])
            await asyncio.sleep(EVERY)
    await database.close(timeout=10)
    return {"postgres": postgres, "valkey": valkey}


if __name__ == "__main__":
    found = asyncio.run(watch(float(sys.argv[1])))
    sys.stdout.write(json.dumps({name: vars(most) for name, most in found.items()}))
