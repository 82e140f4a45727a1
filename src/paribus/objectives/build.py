"""From an `objective:` section to the objective."""

from paribus.objectives.config import NextToken, ObjectiveConfig
from paribus.objectives.next_token import NextTokenLoss
from paribus.objectives.objective import Objective


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective of an `objective:` section."""
    match config:
        case NextToken():
            return NextTokenLoss()
