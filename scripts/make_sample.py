"""Remake the sample corpus that ships with paribus, from JSONL files with the fields id, category and text.

python scripts/make_sample.py TRAIN.jsonl.gz VALIDATION.jsonl.gz TEST.jsonl.gz
"""

import argparse
import gzip
import hashlib
import io
import json
from collections import defaultdict
from pathlib import Path

from paribus.data.jsonlines import json_lines

SPLITS = ("train", "validation", "test")
SAMPLE = Path(__file__).parents[1] / "src" / "paribus" / "data" / "sample"


def choose(file: Path, categories: list[str], per_category: int, seed: int) -> list[dict[str, str]]:
    """The documents of each category whose ids have the smallest SHA-256 under the seed, all in the order of that hash.

    So their order in the file plays no part, and the first N documents hold every category."""
    ranked = defaultdict(list)
    for _, record in json_lines(file):
        rank = hashlib.sha256(f"{seed} {record['id']}".encode()).hexdigest()
        ranked[record["category"]].append((rank, record))
    chosen = []
    for category in categories:
        if len(ranked[category]) < per_category:
            raise SystemExit(f"{file}: {category} has {len(ranked[category])} documents, expected {per_category}")
        chosen += sorted(ranked[category], key=lambda pair: pair[0])[:per_category]
    return [record for _, record in sorted(chosen, key=lambda pair: pair[0])]


def write(path: Path, split: str, records: list[dict[str, str]]) -> None:
    """JSON lines, gzipped at level 9 without a name or a time, so that the same records give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        for record in records:
            line = {"id": record["id"], "category": record["category"], "split": split, "text": record["text"]}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    path.write_bytes(buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for split in SPLITS:
        parser.add_argument(split, type=Path)
    parser.add_argument("--out", type=Path, default=SAMPLE)
    parser.add_argument("--categories", nargs="+", default=["cs.DS", "cs.IT", "cs.PL", "math.GR", "math.ST"])
    parser.add_argument(
        "--per-category", nargs=3, type=int, default=[920, 50, 100], metavar=("TRAIN", "VALIDATION", "TEST")
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for split, per_category in zip(SPLITS, args.per_category, strict=True):
        records = choose(getattr(args, split), args.categories, per_category, args.seed)
        for record in records:
            if {record["id"], record["text"]} & seen:
                raise SystemExit(f"{record['id']}: in two splits")
        seen.update(value for record in records for value in (record["id"], record["text"]))
        path = args.out / f"{split}.jsonl.gz"
        write(path, split, records)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"| `{path.name}` | {len(records):,} | {path.stat().st_size:,} | `{sha256}` |")


if __name__ == "__main__":
    main()
