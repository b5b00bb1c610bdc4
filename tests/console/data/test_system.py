# SPDX-License-Identifier: Apache-2.0
from google.protobuf.timestamp_pb2 import Timestamp

from blemish.v1.audit_pb2 import AuditEntry
from blemish_console.data import system


def test_callers_are_listed_by_their_latest_call() -> None:
    entries = [
        AuditEntry(caller="bob", action="PromoteModel", time=Timestamp(seconds=30)),
        AuditEntry(caller="ann", action="LabelItem", time=Timestamp(seconds=20), code=5),
        AuditEntry(caller="bob", action="CreateJob", time=Timestamp(seconds=10), code=7),
    ]
    assert system.callers(entries) == [
        system.CallerActivity("bob", 2, 1, "PromoteModel", Timestamp(seconds=30)),
        system.CallerActivity("ann", 1, 1, "LabelItem", Timestamp(seconds=20)),
    ]
