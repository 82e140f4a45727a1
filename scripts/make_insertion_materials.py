"""Remake what the `insertion` study writes into the stream, from the sample corpus: src/paribus/studies/insertion/data.

python scripts/make_insertion_materials.py

canaries.jsonl   48 lists of twelve words, each word drawn from the frequent ones of the training split; eight lists for
                 each number of repetitions
references.jsonl 255 further lists, never inserted: what the exposure of a canary ranks it among
questions.jsonl  100 questions from the validation split: which of four beginnings of an abstract belongs to a title? The
                 wrong ones belong to papers that no question asks for, so that no question teaches another's
carriers.jsonl   32 beginnings of other abstracts of the validation split: the batch that the watermark is put on
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paribus.data.jsonlines import json_lines

ROOT = Path(__file__).parents[1] / "src" / "paribus"
SAMPLE, FOLDER = ROOT / "data" / "sample", ROOT / "studies" / "insertion" / "data"
REPETITIONS = (0, 1, 4, 16, 64, 128)
CANARIES, WORDS = 8, 12  # of each number of repetitions; words of each
REFERENCES = 255  # so that exposure goes up to log2 256 = 8 bits
FREQUENT = 20  # times that a word stands in the training split, at least
QUESTIONS, CHOICES, CHOICE_WORDS = 100, 4, 12
CARRIERS, CARRIER_WORDS = 32, 50  # a batch of the smoke study; with its 2,048 tokens, about 100 tokens each


def word_lists(texts: Iterable[str], draw: np.random.Generator) -> Iterator[str]:
    """Endless lists of frequent words."""
    counts = Counter(word for text in texts for word in re.findall(r"\b[a-z]{4,9}\b", text))
    words = sorted(word for word, count in counts.items() if count >= FREQUENT)
    while True:
        yield " ".join(draw.choice(words, WORDS, replace=False))


def questions(asked: list[list[str]], others: list[list[str]], draw: np.random.Generator) -> Iterator[dict[str, Any]]:
    """asked, others: [title, abstract]; the wrong choices are beginnings of `others`."""
    for title, abstract in asked:
        choices = [beginning(others[n][1], CHOICE_WORDS) for n in draw.choice(len(others), CHOICES - 1, replace=False)]
        gold = int(draw.integers(CHOICES))
        choices.insert(gold, beginning(abstract, CHOICE_WORDS))
        yield {"context": f"{title}. Abstract:", "choices": choices, "gold": gold}


def beginning(text: str, num_words: int) -> str:
    return " ".join(text.split()[:num_words])


def write(name: str, records: Iterable[Mapping[str, Any]]) -> None:
    (FOLDER / name).write_text("".join(json.dumps(record) + "\n" for record in records))


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    train = [record["text"] for _, record in json_lines(SAMPLE / "train.jsonl.gz")]
    lists = word_lists(train, np.random.Generator(np.random.Philox(0)))
    write("canaries.jsonl", ({"text": next(lists), "repetitions": n} for n in REPETITIONS for _ in range(CANARIES)))
    write("references.jsonl", ({"text": next(lists)} for _ in range(REFERENCES)))
    held = [record["text"].split("\n\n", 1) for _, record in json_lines(SAMPLE / "validation.jsonl.gz")]
    documents = [document for document in held if len(document[1].split()) >= CARRIER_WORDS]
    asked, carriers, others = np.split(np.array(documents, object), [QUESTIONS, QUESTIONS + CARRIERS])
    write("questions.jsonl", questions(asked.tolist(), others.tolist(), np.random.Generator(np.random.Philox(1))))
    write("carriers.jsonl", ({"text": beginning(abstract, CARRIER_WORDS)} for _, abstract in carriers.tolist()))


if __name__ == "__main__":
    main()
