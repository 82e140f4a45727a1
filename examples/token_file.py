"""Write the sample as OLMo-core reads text: tokens/{train,validation}.npy, headerless uint16 ids, documents end in id 0.

Usage, after `paribus prepare examples/corpus.yaml`: python examples/token_file.py"""

import json
from pathlib import Path

import numpy as np

from paribus.data.store import open_store

tokenizer = open_store("stores/example").tokenizer()
Path("tokens").mkdir(exist_ok=True)
for split in ("train", "validation"):
    texts = [json.loads(line)["text"] for line in Path(f"examples/data/{split}.jsonl").read_text().splitlines()]
    ids = [token for text in texts for token in [*tokenizer.encode(text).ids, 0]]
    np.array(ids, "<u2").tofile(f"tokens/{split}.npy")
    print(f"tokens/{split}.npy: {len(ids):,} tokens")
