"""Which checkpoints are kept, against a plain recomputation of each rule."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from paribus.train.config import Checkpoints
from paribus.train.retention import Retention, from_json


def kept_after(config: Checkpoints, losses: dict[int, float], last: int) -> tuple[set[int], list[int]]:
    """Run the rules over steps 0..last; return what is kept, and which steps were written."""
    state, written = Retention(), []
    for step in range(last + 1):
        if step in losses:
            state = state.observe(config, step, losses[step])
        state = state.decide(config, step, is_last=step == last)
        state = from_json(json.loads(json.dumps(state._asdict())))  # as a resume would
        if step in state.keeps():
            written.append(step)
        assert state.keeps() <= set(written), "something is kept that was never written"
    return state.keeps(), written


def test_an_interval_is_lost() -> None:
    assert kept_after(Checkpoints(), {}, 10) == ({10}, [10])
    assert kept_after(Checkpoints(every=3), {}, 10) == ({6, 9, 10}, [3, 6, 9, 10])
    assert kept_after(Checkpoints(every=3, keep_last=1), {}, 9) == ({9}, [3, 6, 9])
    assert kept_after(Checkpoints(every=3, keep_last=0, initial=True), {}, 10) == ({0, 3, 6, 9, 10}, [0, 3, 6, 9, 10])


@given(
    losses=st.lists(st.one_of(st.floats(0.1, 9), st.just(math.nan)), min_size=1, max_size=12),
    beta=st.sampled_from([0.0, 0.5, 0.9]),
    k=st.integers(1, 3),
)
def test_the_best_are_others_than_those_of_the_weighted_mean(losses: list[float], beta: float, k: int) -> None:
    """The bias-corrected average is the mean of all losses so far with weights beta**age."""
    config = Checkpoints(best=k, best_evaluation="val", best_smoothing=beta)
    smoothed: list[tuple[float, int]] = []
    for step in range(1, len(losses) + 1):
        finite = [loss for loss in losses[:step] if math.isfinite(loss)]
        if math.isfinite(losses[step - 1]):
            weights = [beta ** (len(finite) - 1 - i) for i in range(len(finite))]
            smoothed.append((sum(w * x for w, x in zip(weights, finite, strict=True)) / sum(weights), step))
    best, _ = kept_after(config, dict(enumerate(losses, start=1)), len(losses) + 1)
    values = {step: value for value, step in smoothed}
    found = sorted(values[step] for step in best - {len(losses) + 1})
    expected = sorted(values.values())[:k]
    assert len(found) == len(expected)
    assert all(math.isclose(one, other, rel_tol=1e-9) for one, other in zip(found, expected, strict=True))


def test_a_geometric_improvement_is_missed_or_measured_from_the_wrong_loss() -> None:
    config = Checkpoints(improvement=0.9, best_evaluation="val", best_smoothing=0.0)
    losses = {2: 10.0, 4: 9.1, 6: 8.9, 8: 8.2, 10: 8.0}  # 8.2 is below 0.9 x 9.1, but not below 0.9 x 8.9 = 8.01
    assert kept_after(config, losses, 12)[0] == {2, 6, 10, 12}
