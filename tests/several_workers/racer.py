"""One of the processes that spend the same tickets: a line of tickets in, a line of ones and zeros out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from itertools import islice

from preview_proxy import Origin, Preview, RedisState, Tickets
from preview_proxy.errors import Forbidden
from tests.world import MACHINE, SECRET

ORIGIN = Origin("https", "3000-mch.previews.example", 443)
PREVIEW = Preview(MACHINE, 3000)
EMBEDDER = "https://app.example"
AT_ONCE = 16


async def race(desk: Tickets, tickets: list[str]) -> str:
    won = dict.fromkeys(tickets, "0")

    async def spend(mine: Iterator[str]) -> None:
        for ticket in mine:
            try:
                await desk.exchange(ticket, origin=ORIGIN, preview=PREVIEW, embedder=EMBEDDER)
            except Forbidden:
                continue
            won[ticket] = "1"

    await asyncio.gather(*(spend(islice(tickets, start, None, AT_ONCE)) for start in range(AT_ONCE)))
    return "".join(won.values())


async def main(url: str) -> None:
    state = RedisState(url, secret=SECRET)
    desk = Tickets(SECRET, [EMBEDDER], store=state)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(await race(desk, line.split()), flush=True)
    await state.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
