# SPDX-License-Identifier: Apache-2.0
"""A job reporter that keeps what it receives."""

from blemish_core.jobs.reporter import NullReporter


class RecordingReporter(NullReporter):
    """A reporter that keeps progress and warnings, and counts commits."""

    def __init__(self) -> None:
        self.progressed: list[tuple[str, int, int]] = []
        """Phase, done and total of each report."""
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.plan = ""
        self.commits = 0

    def progress(self, phase: str, done: int, total: int, unit: str) -> None:
        self.progressed.append((phase, done, total))

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def announce(self, plan: str) -> None:
        self.plan = plan

    def note(self, text: str) -> None:
        self.notes.append(text)

    def commit(self) -> None:
        self.commits += 1
