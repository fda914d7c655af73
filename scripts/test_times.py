"""Run tests in one process and print the CPU seconds of each module, and of the tests that took the most.

    OMP_NUM_THREADS=1 python scripts/test_times.py tests -m "not slow"

Arguments are those of pytest. Processes that a test starts are counted with it, and a fixture with the first test that
needs it. Seconds of a CPU say the same on a busy machine as on an idle one, but for a few per cent.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest


class Times:
    """A plugin of pytest that keeps the CPU seconds of every test by its id."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, Any, Any]:
        before = sum(os.times()[:4])
        try:
            return (yield)
        finally:
            self.seconds[item.nodeid] += sum(os.times()[:4]) - before  # type: ignore[assignment]


def main(arguments: list[str]) -> int:
    """Exit code of pytest."""
    times = Times()
    code = pytest.main([*arguments, "-n", "0"], plugins=[times])
    modules, tests = Counter[str](), Counter[str]()
    for test, seconds in times.seconds.items():
        modules[test.partition("::")[0]] += seconds  # type: ignore[assignment]
        tests[test.partition("::")[0]] += 1
    print(f"\n{sum(modules.values()):8.1f} s, {len(times.seconds)} tests")
    for module, seconds in modules.most_common():
        print(f"{seconds:8.1f} s, {tests[module]:4d} tests: {module}")
    for test, seconds in times.seconds.most_common(30):
        print(f"{seconds:8.1f} s  {test}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
