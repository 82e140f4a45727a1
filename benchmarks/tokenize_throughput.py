"""Tokenising against the raw library: tokens/s of `prepare` and of `encode_batch`, their ratio (>= 0.9), and memory.

    python benchmarks/tokenize_throughput.py [--rounds 7] [--memory-tokens 1e8]

Peer: one call of `encode_batch` on a list of texts that is in memory already, on all cores; its tokens are thrown away.
Ours is the whole of `prepare`: hash the input, read and parse JSON lines, look for duplicates, encode, write and hash
the store. Both sides alternate, and each is judged by its fastest round: what is slower was slowed by something else.
The texts are those of the shipped sample, repeated, under a BPE trained on it, or, where PARIBUS_DATA names a folder that
has them, data/arxiv/abstracts_train.jsonl.gz under tokenizers/gpt-neox-20b. Memory: the peak of a process of its own that
prepares a synthetic corpus of 1e8 tokens
(< 500 MB). About 2 minutes on two cores.
"""

import argparse
import json
import os
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from paribus.data.config import CorpusConfig, Jsonl, Sample, TokenizerFile, TrainBpe
from paribus.data.corpus import documents
from paribus.data.encode import num_cores
from paribus.data.generators import generator
from paribus.data.prepare import prepare
from paribus.data.tokenizer import load_tokenizer

NUM_DOCUMENTS = 25_000  # some 5 million tokens
LENGTH = 200  # tokens of a synthetic document, the mean of the abstracts


def texts_and_tokenizer() -> tuple[list[str], Tokenizer]:
    folder = Path(os.environ.get("PARIBUS_DATA", "absent"))
    file, known = folder / "data/arxiv/abstracts_train.jsonl.gz", folder / "tokenizers/gpt-neox-20b"
    source = Jsonl(files={"train": [str(file)]}) if file.exists() else Sample()
    config = TokenizerFile(path=str(known)) if known.exists() else TrainBpe(vocab_size=4096)
    print(
        f"texts: {file if file.exists() else 'the sample'}; tokenizer: {known if known.exists() else 'a BPE of 4,096'}"
    )
    every = [document.text for document in documents(source, "train")]
    repeated = every * (1 + NUM_DOCUMENTS // len(every))
    return repeated[:NUM_DOCUMENTS], load_tokenizer(config, lambda: iter(every))


def corpus(folder: Path, name: str) -> CorpusConfig:
    return CorpusConfig(
        name=name,
        store=str(folder / f"{name}-{time.monotonic_ns()}"),
        source=Jsonl(files={"train": [str(folder / f"{name}.jsonl")]}),
        tokenizer=TokenizerFile(path=str(folder / f"{name}.json")),
    )


def throughput(folder: Path, rounds: int) -> float:
    """Print tokens/s of both sides; return the ratio of their fastest rounds."""
    texts, tokenizer = texts_and_tokenizer()
    tokenizer.save(str(folder / "texts.json"))
    with (folder / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps({"id": i, "category": "c", "text": text}) + "\n" for i, text in enumerate(texts))
    tokenizer.encode_batch(texts[:100])
    rounds_taken = []
    for _ in range(rounds):
        count, *raw = timed(lambda: sum(map(len, tokenizer.encode_batch(texts, add_special_tokens=False))))
        found, *ours = timed(lambda: prepare(corpus(folder, "texts"), progress=False).num_tokens)
        assert found == count
        rounds_taken.append((*ours, *raw))
    mine, my_cpu, peer, peer_cpu = (min(column) for column in zip(*rounds_taken, strict=True))
    ratios = sorted(raw / ours for ours, _, raw, _ in rounds_taken)
    print(f"{count:,} tokens on {num_cores()} cores: prepare {count / mine / 1e6:.3f} M tokens/s, ", end="")
    print(f"encode_batch {count / peer / 1e6:.3f} M tokens/s; processor time {my_cpu:.2f} s and {peer_cpu:.2f} s")
    print(f"ratio {peer / mine:.2f} (rounds: {', '.join(f'{each:.2f}' for each in ratios)}; wanted >= 0.9)")
    return peer / mine


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """What it returns, seconds on the clock, seconds of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - clock, time.process_time() - processor


MEASURE = """
import json, sys
from paribus.data.config import CorpusConfig
from paribus.data.prepare import prepare
store = prepare(CorpusConfig.model_validate_json(sys.argv[1]), progress=False)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"tokens": store.num_tokens, "documents": len(store.documents.id), "kilobytes": int(peak.split()[1])}))
"""


def memory(folder: Path, num_tokens: int) -> float:
    """Prepare `num_tokens` random letters, each a token, in a process of its own; return its peak in MB (Linux)."""
    from tokenizers import decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "letters.json"))
    letters = np.frombuffer((string.ascii_lowercase + " " * 6).encode(), np.uint8)
    with (folder / "letters.jsonl").open("w") as file:
        draws = generator(0, "letters")
        for number in range(num_tokens // LENGTH):
            text = letters[draws.integers(0, len(letters), LENGTH)].tobytes().decode()
            file.write(f'{{"id": {number}, "category": "c{number % 11}", "text": "{text}"}}\n')
    began = time.perf_counter()
    command = [sys.executable, "-c", MEASURE, corpus(folder, "letters").model_dump_json()]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    peak = found["kilobytes"] * 1024 / 1e6
    print(
        f"memory: {found['tokens']:,} tokens in {found['documents']:,} documents, {time.perf_counter() - began:.0f} s, "
        f"peak {peak:.0f} MB (wanted < 500 MB)"
    )
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-tokens", type=float, default=1e8)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ratio = throughput(Path(folder), args.rounds)
        peak = memory(Path(folder), int(args.memory_tokens))
    sys.exit(0 if ratio >= 0.9 and peak < 500 else 1)


if __name__ == "__main__":
    main()
