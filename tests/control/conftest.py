"""The contracts train the same small runs as tests/train."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "train"))
