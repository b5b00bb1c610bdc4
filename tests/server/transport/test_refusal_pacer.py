# SPDX-License-Identifier: Apache-2.0
import asyncio
import time

from blemish_server.transport.refusal_pacer import RefusalPacer


def test_only_many_refusals_of_one_caller_are_a_flood() -> None:
    pacer = RefusalPacer()
    assert not any(pacer.counts_as_flood(f"10.0.0.{number}") for number in range(200))
    assert [pacer.counts_as_flood("mes") for _ in range(25)] == [False] * 20 + [True] * 5


async def test_refusals_of_a_flood_wait_up_to_a_bound() -> None:
    pacer, start_s = RefusalPacer(), time.monotonic()
    waits = [asyncio.create_task(pacer.wait()) for _ in range(2100)]
    await asyncio.sleep(0.3)
    assert sum(wait.done() for wait in waits) == 100
    await asyncio.gather(*waits)
    assert 0.9 < time.monotonic() - start_s < 10
