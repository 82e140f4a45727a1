"""Write the versions installed in this environment to constraints.txt: names and versions only, no address, no local tag.

What constraints-olmo.txt pins stays there."""

import re
from importlib.metadata import distributions
from pathlib import Path

NOT_LOCKED = {"paribus", "pip", "setuptools", "wheel"}


def main() -> None:
    installed = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version.split("+")[0] for d in distributions()}
    root = Path(__file__).parents[1]
    olmo = {line.partition("==")[0] for line in (root / "constraints-olmo.txt").read_text().splitlines()}
    lines = [f"{name}=={version}" for name, version in sorted(installed.items()) if name not in NOT_LOCKED | olmo]
    path = root / "constraints.txt"
    path.write_text("# Exact versions that were tested together; remade by `make lock`.\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
