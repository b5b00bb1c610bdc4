# SPDX-License-Identifier: Apache-2.0
import asyncio
import time

from blemish_server.transport.refusal_pacer import RefusalPacer


def test_only_many_refusals_of_one_caller_are_a_flood() -> None:
    pacer = RefusalPacer()
    assert not any(pacer.counts_as_flood(f"10.0.0.{number}") for number in range(200))
    assert [pacer.counts_as_flood("mes") for _ in range(25)] == [False] * 20 + [True] * 5


async def test_refusals_of_a_flood_wait_and_are_spread_over_time() -> None:
    pacer, start_s, ends_s = RefusalPacer(), time.monotonic(), list[float]()

    async def refuse() -> None:
        await pacer.wait()
        ends_s.append(time.monotonic() - start_s)

    await asyncio.gather(*(refuse() for _ in range(101)))
    assert ends_s[0] > 0.9
    assert ends_s[-1] - ends_s[0] > 0.4


async def test_number_of_waiting_refusals_is_bounded() -> None:
    pacer = RefusalPacer()
    waits = [asyncio.create_task(pacer.wait()) for _ in range(5100)]
    await asyncio.sleep(0.3)
    assert sum(wait.done() for wait in waits) == 100
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert not pacer.is_full
