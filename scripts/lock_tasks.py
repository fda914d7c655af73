"""Write tasks/versions.lock: id, version and digest of every task definition.

A test compares it with the definitions: a definition that changes under an old version fails.
"""

import sys
from pathlib import Path

from sae_bench import registry

LOCK = Path(__file__).parents[1] / "tasks" / "versions.lock"


def lines() -> list[str]:
    return [f"{s.id} {s.version} {registry.definition_sha256(s)}" for s in registry.tasks().values()]


def main() -> int:
    written = LOCK.read_text().splitlines() if LOCK.exists() else []
    known = {tuple(line.split()[:2]): line.split()[2] for line in written}
    for line in lines():
        task, version, digest = line.split()
        if known.get((task, version), digest) != digest:
            print(f"{task} changed under version {version}: give it a new version")
            return 1
    LOCK.write_text("\n".join(lines()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
