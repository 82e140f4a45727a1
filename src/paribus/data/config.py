"""The settings of the data: corpora and their stores, and the streams of windows that training reads."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from paribus.config import Count, PositiveCount, PositiveFloat, Section

# --- from raw text to a store: `paribus prepare CORPUS.yaml` -----------------------------------------------------------


class Fields(Section):
    """Which field of a record holds what. A dot reaches into nested records."""

    id: str | None = Field("id", description="unique within its file; null numbers the documents of a split")
    text: str = "text"
    category: str | None = Field("category", description="null puts every document into one category, `all`")


class Jsonl(Section):
    kind: Literal["jsonl"] = "jsonl"
    files: dict[str, list[str]] = Field(description="split -> files or glob patterns: .jsonl, .jsonl.gz, .jsonl.zst")
    fields: Fields = Fields()


class Parquet(Section):
    kind: Literal["parquet"] = "parquet"
    files: dict[str, list[str]] = Field(description="split -> files or glob patterns")
    fields: Fields = Fields()


class Folder(Section):
    kind: Literal["folder"] = "folder"
    path: str = Field(description="holds SPLIT/CATEGORY/NAME.txt")


class Hub(Section):
    kind: Literal["hub"] = "hub"
    name: str = Field(description="a dataset of the Hugging Face hub, or a local folder in its form")
    subset: str | None = Field(None, description="the hub calls it the config name, e.g. `no_ref`")
    revision: str | None = None
    splits: list[str] = ["train", "validation", "test"]
    fields: Fields = Fields(id=None, category="label")


class Sample(Section):
    """The sample of arXiv abstracts that ships with the package."""

    kind: Literal["sample"] = "sample"


class OriginalFiles(Section):
    """Already tokenised: `tokens.bin` (uint16), `index.jsonl`, `splits.json`."""

    kind: Literal["original_files"] = "original_files"
    path: str


Source = Annotated[Jsonl | Parquet | Folder | Hub | Sample | OriginalFiles, Field(discriminator="kind")]


class TokenizerFile(Section):
    kind: Literal["file"] = "file"
    path: str = Field(description="tokenizer.json, tokenizer.json.gz, or a folder that holds one")


class TokenizerHub(Section):
    kind: Literal["hub"] = "hub"
    name: str
    revision: str | None = None


class TrainBpe(Section):
    """A byte-level BPE trained on the corpus' own training split; the same corpus gives the same merges."""

    kind: Literal["train_bpe"] = "train_bpe"
    vocab_size: Annotated[int, Field(ge=257)] = Field(description="entries, special tokens and 256 bytes included")
    special_tokens: list[str] = ["<|endoftext|>"]
    split: str = "train"


Tokenizer = Annotated[TokenizerFile | TokenizerHub | TrainBpe, Field(discriminator="kind")]


class CorpusConfig(Section):
    """Documents, their tokenizer, and the store that holds the result."""

    name: str
    store: str = Field(description="the folder to write")
    source: Source
    tokenizer: Tokenizer
    beginning_of_document: str | None = Field(None, description="a token written before every document")
    min_tokens: Count = Field(1, description="shorter documents are skipped and counted")
    max_documents_per_split: PositiveCount | None = Field(None, description="keep the first so many documents a split")
    duplicates: Literal["refuse", "drop"] = Field(
        "refuse", description="a text in more than one split: refuse the corpus, or drop the copy in the earlier split"
    )
    shard_tokens: PositiveCount = Field(2**28, description="tokens a shard, rounded up to whole documents")
    num_threads: PositiveCount | None = Field(None, description="tokenising threads; null takes every core")


# --- from a store to windows: the `data:` section of a run -------------------------------------------------------------


class AllCategories(Section):
    kind: Literal["all"] = "all"


class NestedCategories(Section):
    """Sort the names, shuffle them with `random.Random(seeds.categories)`, take the first k: subsets nest within a seed."""

    kind: Literal["nested"] = "nested"
    k: PositiveCount


class ExplicitCategories(Section):
    kind: Literal["explicit"] = "explicit"
    names: Annotated[list[str], Field(min_length=1)]


Categories = Annotated[AllCategories | NestedCategories | ExplicitCategories, Field(discriminator="kind")]


class RandomWindows(Section):
    """Independent windows: draw a category, a document of it, then a start; never across documents."""

    kind: Literal["random"] = "random"
    weights: Literal["component", "document", "token"] | dict[str, PositiveFloat] = Field(
        "component",
        description="a category's share: equal, by its documents, by its window starts, or explicit by name",
    )
    documents: Literal["token", "uniform"] = Field(
        "token", description="inside a category every window start is equally likely, or every document is"
    )


class AllChunks(Section):
    kind: Literal["all"] = "all"


class ConstantTotal(Section):
    """One epoch holds floor(chunks / K) chunks of each of the K categories: the total does not depend on K."""

    kind: Literal["constant_total"] = "constant_total"
    chunks: PositiveCount = Field(description="chunks an epoch; a category with fewer than its share repeats its own")


class ConstantUnique(Section):
    """Only floor(chunks / K) chunks of each category exist for this run: the unique tokens do not depend on K."""

    kind: Literal["constant_unique"] = "constant_unique"
    chunks: PositiveCount = Field(description="unique chunks in all; a category with fewer than its share is an error")


Design = Annotated[AllChunks | ConstantTotal | ConstantUnique, Field(discriminator="kind")]


class ChunkWindows(Section):
    """Non-overlapping chunks, every one once an epoch, in an order that a stateless permutation gives."""

    kind: Literal["chunks"] = "chunks"
    design: Design = AllChunks()


Windows = Annotated[RandomWindows | ChunkWindows, Field(discriminator="kind")]


class TextData(Section):
    kind: Literal["text"] = "text"
    store: str = Field(description="the folder that `paribus prepare` wrote")
    split: str = "train"
    window: PositiveCount = Field(description="predictions a window")
    start_token: bool = Field(
        False, description="put the tokenizer's first special token before each window, so that position 1 is predicted"
    )
    categories: Categories = AllCategories()
    windows: Windows = RandomWindows()
    labels: Literal["original", "shuffled"] = Field(
        "original",
        description="`shuffled` deals the categories out anew among the documents (seeds.labels): the control",
    )


class PermutationOrder(Section):
    """Every row once an epoch, in the order of a stateless permutation keyed by (seeds.order, epoch)."""

    kind: Literal["permutation"] = "permutation"


class OlmoOrder(Section):
    """The order of OLMo's trainer (PyPI `ai2-olmo`), whose `seed` is seeds.order; its epochs count from 0.

    An epoch is cut to whole batches, as with its `data.drop_last: true`."""

    kind: Literal["olmo"] = "olmo"


class OlmoCoreOrder(Section):
    """The order of OLMo-core's trainer (PyPI `ai2-olmo-core`), whose `seed` is seeds.order; its epochs count from 1.

    An epoch is cut to whole batches."""

    kind: Literal["olmo_core"] = "olmo_core"


TokenOrder = Annotated[PermutationOrder | OlmoOrder | OlmoCoreOrder, Field(discriminator="kind")]


class TokenFilesData(Section):
    """Token ids as OLMo and OLMo-core read them: headerless little-endian arrays, each cut into rows of S tokens.

    What is left at the end of a file fills no row and is dropped; a row never crosses into the next file."""

    kind: Literal["token_files"] = "token_files"
    files: Annotated[list[str], Field(min_length=1)] = Field(
        description="files or glob patterns, in the order in which they are laid end to end; a pattern's matches are sorted"
    )
    dtype: Literal["uint16", "uint32"] = Field(description="of the ids in the files, which do not say it themselves")
    sequence_length: Annotated[int, Field(ge=2)] = Field(description="S, tokens a row; they give S - 1 predictions")
    vocab_size: PositiveCount = Field(description="ids are below it; the embedding has as many rows")
    eos: Count = Field(description="id of the end-of-text token that stands between documents")
    order: TokenOrder = PermutationOrder()
    mask_separators: bool = Field(False, description="take no loss where the input is the end-of-text token")
    tokenizer: str | None = Field(
        None, description="tokenizer.json or its folder: encodes the texts of insertions, decodes those of an audit"
    )
    heldout_files: list[str] = Field([], description="files or glob patterns whose rows evaluations of kind loss score")

    @property
    def window(self) -> int:
        """Predictions a window."""
        return self.sequence_length - 1

    @model_validator(mode="after")
    def _eos_is_an_id(self) -> "TokenFilesData":
        if self.eos >= self.vocab_size:
            raise ValueError(f"eos: an id below vocab_size {self.vocab_size} is expected, found {self.eos}")
        return self


class CoinsData(Section):
    """N biased coins, p_k = k / (N + 1): one coin a window, uniformly."""

    kind: Literal["coins"] = "coins"
    num_components: PositiveCount
    window: PositiveCount


class MarkovData(Section):
    """Markov chains whose rows are drawn from a symmetric Dirichlet: one chain a window."""

    kind: Literal["markov"] = "markov"
    num_components: PositiveCount
    num_symbols: Annotated[int, Field(ge=2)]
    concentration: PositiveFloat = Field(1.0, description="of the Dirichlet: small makes chains easy to tell apart")
    window: PositiveCount
    tables_seed: Count = Field(0, description="draws the transition matrices")


class HiddenMarkovData(Section):
    """Hidden Markov chains with Dirichlet transition and emission rows: one chain a window."""

    kind: Literal["hidden_markov"] = "hidden_markov"
    num_components: PositiveCount
    num_states: Annotated[int, Field(ge=2)]
    num_symbols: Annotated[int, Field(ge=2)]
    concentration: PositiveFloat = 1.0
    window: PositiveCount
    tables_seed: Count = 0


DataConfig = Annotated[
    TextData | TokenFilesData | CoinsData | MarkovData | HiddenMarkovData, Field(discriminator="kind")
]


class Seeds(Section):
    """Separate seeds, so that one thing can change alone."""

    categories: Count = Field(0, description="which categories a nested choice takes")
    weights: Count = Field(0, description="the model's initial weights")
    order: Count = Field(0, description="which windows are drawn, and in which order")
    labels: Count = Field(0, description="how `labels: shuffled` deals out the categories")
    insertions: Count = Field(0, description="where insertions go, and which items get a copy more")
