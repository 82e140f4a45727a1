"""The contracts train the same small runs as tests/train and tests/launch."""

import sys
from pathlib import Path

for folder in ("train", "launch"):
    sys.path.append(str(Path(__file__).parents[1] / folder))
