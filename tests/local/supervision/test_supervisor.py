# SPDX-License-Identifier: Apache-2.0
from blemish_local.supervision.supervisor import RestartPolicy


def test_delay_doubles_up_to_its_bound() -> None:
    policy = RestartPolicy(first_delay_s=0.5, longest_delay_s=10.0)

    assert [policy.delay_s(deaths) for deaths in range(1, 8)] == [0.5, 1, 2, 4, 8, 10, 10]
