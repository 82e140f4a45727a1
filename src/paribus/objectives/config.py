"""What a run minimises."""

from typing import Literal

from paribus.config import Section


class NextToken(Section):
    """Cross-entropy of the next token, in nats, averaged over every target of the global batch."""

    kind: Literal["next_token"] = "next_token"


ObjectiveConfig = NextToken
