# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.fuzz.child TARGET FINDINGS [libFuzzer option]...``: run one target under atheris.

Findings are deduplicated by error and place, and written to FINDINGS, one folder each; the run goes on. A
hang, a crash or exhausted memory ends the process, and libFuzzer writes the input there.
"""

import resource
import sys
import time
import traceback
from hashlib import sha256
from logging import CRITICAL
from pathlib import Path

import atheris
import structlog

with atheris.instrument_imports(
    include=["PIL", "blemish_core", "blemish_server", "blemish_client", "blemish_workers"],
    enable_loader_override=False,
):
    from tests.fuzz.target import Target, load

    TARGET = load(sys.argv[1])

_WARM_UP = 200
"""Inputs whose memory is not measured, because caches and modules are loaded."""


class Recorder:
    """The runner of one target, which keeps one input for each kind of finding."""

    def __init__(self, target: Target, findings: Path) -> None:
        self._target = target
        self._findings = findings
        self._seen: set[str] = set()
        self._peak_bytes = _peak_bytes()
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        start_s = time.thread_time()
        try:
            self._target.run(data)
        except self._target.expected:
            pass
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
            self._keep(key, data, traceback.format_exc())
        if (took_s := time.thread_time() - start_s) > self._target.max_seconds:
            self._keep("slow", data, f"{took_s:.1f} s of CPU time")
        self._runs += 1
        if (peak_bytes := _peak_bytes()) > self._peak_bytes:
            growth = peak_bytes - self._peak_bytes
            self._peak_bytes = peak_bytes
            if self._runs > _WARM_UP and growth > self._target.max_growth_bytes:
                self._keep("memory", data, f"the peak grew by {growth >> 20} MiB")

    def _keep(self, key: str, data: bytes, detail: str) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        folder = self._findings / sha256(key.encode()).hexdigest()[:12]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "input").write_bytes(data)
        (folder / "reason.txt").write_text(f"{key}\n{detail}\n")
        print(f"FINDING {key}", flush=True)


def _peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    recorder = Recorder(TARGET, Path(sys.argv[2]))
    atheris.Setup([sys.argv[0], *sys.argv[3:]], recorder)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
