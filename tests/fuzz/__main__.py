# SPDX-License-Identifier: Apache-2.0
"""Fuzz every entry point of hostile input, guided by coverage, and print a table of executions.

    python -m tests.fuzz [--minutes 10] [--work build/fuzz] [TARGET]...

The minutes are divided equally among the targets, which run one after the other. New inputs are kept in
the working folder, so that the next run goes on there. ``--keep`` takes some into the repository.
The exit code is 1 if there are findings, which lie in the working folder.
"""

import argparse
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from hashlib import sha1
from pathlib import Path

from tests.fuzz.target import CORPUS, load, names

RPCS = "rpcs"
"""The calls of ``tests.fuzz.rpcs``, which are not guided by coverage."""
_MEMORY_MB = 4096
"""Limit of the process. The fuzzer itself grows by half a GB in a million executions of large messages."""
_ALLOCATION_MB = 2048
"""Limit of one allocation."""
_HANG_S = 30
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_PULSE = re.compile(r"^#(\d+)\s", re.MULTILINE)
_KEPT_BYTES = 4096
"""Longest input that is kept in the repository."""
_KEPT = 60
"""Most inputs of a target that are kept in the repository."""


@dataclass(frozen=True)
class Outcome:
    """The result of one target."""

    name: str
    executions: int
    seconds: int
    findings: tuple[str, ...]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(names())}, {RPCS}")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument(
        "--work", type=Path, default=Path("build/fuzz"), help="folder of inputs and findings"
    )
    options.add_argument("--keep", action="store_true", help="minimise new inputs into tests/fuzz/corpus")
    arguments = options.parse_args()
    known = [*names(), RPCS]
    chosen = arguments.targets or known
    if unknown := set(chosen) - set(known):
        options.error(f"there is no target {min(unknown)}; use {', '.join(known)}")
    seconds = max(1, round(60 * arguments.minutes / len(chosen)))
    work = arguments.work.resolve()
    outcomes = [fuzz_rpcs(seconds) if name == RPCS else fuzz(name, work, seconds) for name in chosen]
    print(table(outcomes), flush=True)
    if arguments.keep:
        for name in chosen:
            if name != RPCS:
                keep(name, work)
    return 1 if any(outcome.findings for outcome in outcomes) else 0


def fuzz(name: str, work: Path, seconds: int) -> Outcome:
    """Run one target for ``seconds``, again after a hang or a crash."""
    corpus, findings = work / "corpus" / name, work / "findings" / name
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    for seed in load(name).seeds().values():
        (corpus / sha1(seed).hexdigest()).write_bytes(seed)
    target, words = load(name), work / f"{name}.dict"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
    executions, left_s = 0, seconds
    found: list[str] = []
    while left_s > 0:
        command = [
            *(sys.executable, "-W", "ignore", "-m", "tests.fuzz.child", name, str(findings)),
            *(f"-max_total_time={left_s}", f"-max_len={target.max_bytes}", f"-timeout={_HANG_S}"),
            *(
                f"-rss_limit_mb={_MEMORY_MB}",
                f"-malloc_limit_mb={_ALLOCATION_MB}",
                f"-artifact_prefix={findings}/",
                "-print_final_stats=1",
            ),
            *((f"-dict={words}",) if target.words else ()),
            *(str(corpus), *(str(each) for each in (CORPUS / name,) if each.is_dir())),
        ]
        output, took_s, code = _run(command)
        done = [int(number) for number in _EXECUTED.findall(output)]
        executions += done[-1] if done else max(map(int, _PULSE.findall(output)), default=0)
        found += [line.removeprefix("FINDING ") for line in output.splitlines() if line[:8] == "FINDING "]
        if code == 0:
            return Outcome(name, executions, seconds, tuple(sorted(set(found))))
        found.append(
            next((line for line in output.splitlines() if "ERROR: libFuzzer" in line), f"exit {code}")
        )
        print(output[-3000:], file=sys.stderr)
        left_s -= max(1, round(took_s))
    return Outcome(name, executions, seconds, tuple(sorted(set(found))))


def fuzz_rpcs(seconds: int) -> Outcome:
    """Call every RPC of a stack of its own for about ``seconds``."""
    seed = str(secrets.randbelow(1 << 30))
    options = ("--minutes", str(seconds / 60), "--seed", seed, "--examples", "20")
    output, _, code = _run([sys.executable, "-W", "ignore", "-m", "tests.fuzz.rpcs", *options])
    done = [int(number) for number in _EXECUTED.findall(output)]
    found = [line.partition(":")[0] for line in output.splitlines() if line.startswith("FINDING ")]
    if code and not found:
        found = [f"exit {code}"]
    if found:
        print(output[-5000:], file=sys.stderr)
    return Outcome(RPCS, sum(done), seconds, tuple(f"{each} (seed {seed})" for each in found))


def keep(name: str, work: Path) -> None:
    """Replace the corpus of a target in the repository by inputs from the working folder.

    libFuzzer stores only inputs that add coverage, and replaces them by shorter ones. The kept inputs are
    a sample of these, evenly over all lengths.
    """
    kept = CORPUS / name
    found = {
        sha1(data).hexdigest()[:16]: data
        for folder in (kept, work / "corpus" / name)
        if folder.is_dir()
        for file in folder.iterdir()
        if len(data := file.read_bytes()) <= _KEPT_BYTES
    }
    by_length = sorted(found, key=lambda digest: (len(found[digest]), digest))
    chosen = by_length[:: -(-len(by_length) // _KEPT) or 1]
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    for digest in chosen:
        (kept / digest).write_bytes(found[digest])


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as a Markdown table with the total of executions."""
    rows = [
        f"| {each.name} | {each.executions:,} | {each.seconds} | {'; '.join(each.findings) or 'none'} |"
        for each in outcomes
    ]
    executions = sum(each.executions for each in outcomes)
    seconds = sum(each.seconds for each in outcomes)
    findings = sum(len(each.findings) for each in outcomes)
    total = f"| all | {executions:,} | {seconds} | {findings or 'none'} |"
    return "\n".join(["| target | executions | seconds | findings |", "|---|---|---|---|", *rows, total])


def _escaped(word: str) -> str:
    """Return a word as libFuzzer's dictionaries spell it."""
    return "".join(f"\\x{byte:02x}" for byte in word.encode())


def _run(command: list[str]) -> tuple[str, float, int]:
    start_s = time.monotonic()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    )
    return done.stdout, time.monotonic() - start_s, done.returncode


if __name__ == "__main__":
    sys.exit(main())
