"""Everything paribus refuses, as one tree.

ParibusError             exit 2   a user's mistake: where, what was found, what was expected, what to do
├── ConfigError                   a key, a value, a file of the configuration
├── DataError                     a corpus, a tokenizer, a store
│   ├── StoreError                a store that is damaged or was made from something else
│   └── PlanError                 insertions that cannot be placed, or a plan that was made for another stream
├── RunError                      a run directory: in use, or made by another config
│   └── CheckpointError           a checkpoint that is missing or damaged
├── RemoteError                   credentials, buckets, a transfer that broke off
├── MissingExtra                  a library that an optional extra installs
└── RunFailed            exit 1   the run itself went wrong
    └── Diverged                  a loss that is not finite
"""

import contextlib
from collections.abc import Iterator


class ParibusError(Exception):
    """A mistake that one clear line explains; the command line prints it and exits with `exit_code`."""

    exit_code = 2


class ConfigError(ParibusError):
    """A key, a value or a file of the configuration. The message may have one line per mistake."""


class DataError(ParibusError):
    """A corpus, a tokenizer or a store cannot be used as asked."""


class StoreError(DataError):
    """A token store is damaged, incomplete, or was made from something else."""


class PlanError(DataError):
    """Insertions cannot be read or placed as asked, or a plan was made for another stream."""


class RunError(ParibusError):
    """A run directory is in use, or was made by another configuration."""


class CheckpointError(RunError):
    """A checkpoint is missing, incomplete or damaged."""


class RemoteError(ParibusError):
    """A remote store refused the credentials, lacks the bucket, or broke off a transfer."""


class MissingExtra(ParibusError):
    """A library is not installed; the message names the extra that installs it."""


class RunFailed(ParibusError):
    """The run itself went wrong: nothing the user typed was at fault."""

    exit_code = 1


class Diverged(RunFailed):
    """A loss stopped being finite."""


@contextlib.contextmanager
def named(section: str) -> Iterator[None]:
    """Put the section of the config before what a part says of its own settings: a part does not know where it stands."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"{section}: {error}") from error
