"""The proportional controller: steer the probability of a fact along a line by the number of texts that teach it.

Bordt and Pawelczyk, "Train Once, Answer All" (arXiv 2509.23383). Dimension key: N prompts of the probe."""

import numpy as np
from torch import nn

from paribus.control.controller import Controller, Now
from paribus.data.permutation import shuffle_key, without_replacement
from paribus.evals.config import FictionalEval
from paribus.evals.fictional import facts
from paribus.evals.likelihood import log_likelihoods
from paribus.evals.scoring import EvalContext
from paribus.evals.texts import records
from paribus.insertions.dynamic import FEWEST, MOST, ProportionalController
from paribus.insertions.segments import Decision

LARGEST_CHANGE = 256  # texts from one segment to the next
ABOVE, BELOW = 1.05, 0.95  # of the probability that is wanted: in between nothing changes


def adjusted(num_texts: int, found: float, wanted: float) -> int:
    """The number of texts of the next segment: half when too much is known, twice when too little; an odd half rounds down.

    It changes by at most 256 and stays in 1 to 8192."""
    goal = num_texts
    if found > ABOVE * wanted:
        goal = num_texts // 2
    elif found < BELOW * wanted:
        goal = 2 * num_texts
    change = min(max(goal - num_texts, -LARGEST_CHANGE), LARGEST_CHANGE)
    return min(max(num_texts + change, FEWEST), MOST)


def proportional_controller(name: str, config: ProportionalController, context: EvalContext) -> Controller:
    """Read the probe and the texts; name: of the experiment, which keys the draw of the texts.

    Raises DataError, with file and line, for what cannot be used."""
    asked = facts(_probe(config), context)
    texts = [record.text(config.key) for record in records(config.texts)]

    def look(model: nn.Module) -> float:
        """The mean probability of the targets: `probability` of an evaluation of kind fictional."""
        log_N = log_likelihoods(model, asked.rows, config.batch_size, context)
        return float(np.exp(log_N).mean())

    def decide(found: float, now: Now) -> Decision:
        wanted = config.target * now.step / now.num_steps
        # before the first segment nothing was taught yet: the number that the config gives stands
        num_texts = adjusted(now.state["n"], found, wanted) if "probability" in now.state else now.state["n"]
        key = shuffle_key(context.seeds.insertions, f"control: {name}", now.step)
        chosen = [texts[index] for index in without_replacement(num_texts, len(texts), key)]
        return Decision({"n": num_texts, "probability": found, "wanted": wanted}, chosen)

    return Controller(look, decide)


def _probe(config: ProportionalController) -> FictionalEval:
    return FictionalEval(
        file=config.probe,
        prompt_key=config.prompt_key,
        target_key=config.target_key,
        target_delimiter=config.target_delimiter,
        start_token=config.start_token,
        batch_size=config.batch_size,
    )
