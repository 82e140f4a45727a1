"""Oracles: simulated matrices with known dependence, binomial limits, Holm's steps by hand."""

import math

import numpy as np
import pytest

from paribus.errors import ConfigError, RunError
from paribus.evals.results import EvalResult, write_result
from paribus.evals.statistics import student_quantile
from paribus.insertions.config import InsertionsConfig, Texts
from paribus.report.blocks import Figure, Verdicts
from paribus.report.page import paper_spec
from paribus.rundir import RunDir
from paribus.studies.insertion.dependence import blocks, holm, judge, measure, sort_runs
from paribus.studies.insertion.study import dependence_blocks

NAMES = ("a", "b", "c", "d")
N = len(NAMES)


def simulated(draw, *, rho, control_seeds, is_paired, dependence=None):
    """Metrics of scale 1, 2, 3, 4 whose noise two runs of one seed share with correlation rho; own effects of 3 sigma."""
    sigma, effect = np.arange(1.0, N + 1), np.diag(np.full(N, 3.0)) + (0 if dependence is None else dependence)
    shared = draw.normal(size=(1 + control_seeds, N))

    def noise(seeds):
        return math.sqrt(rho) * shared[:seeds] + math.sqrt(1 - rho) * draw.normal(size=(seeds, N))

    seeds = 1 + control_seeds if is_paired else 1
    full = 10 + sigma * noise(1 + control_seeds)
    left = np.stack([10 + sigma * (effect[i] + noise(seeds)) for i in range(N)])
    return judge(NAMES, full, left)


@pytest.mark.parametrize(
    ("rho", "control_seeds", "is_paired"), [(0, 2, False), (0, 5, False), (0.7, 5, False), (0, 2, True), (0.7, 4, True)]
)
def test_without_dependence_more_than_one_family_in_twenty_is_rejected(rho, control_seeds, is_paired):
    draw, families = np.random.default_rng(7), 1500
    rejected = sum(
        bool(np.nanmin(simulated(draw, rho=rho, control_seeds=control_seeds, is_paired=is_paired).p_holm) <= 0.05)
        for _ in range(families)
    )
    limit = 0.05 * families + 2.58 * math.sqrt(0.05 * 0.95 * families)  # 99.5 % of binomial draws at 5 %
    assert rejected <= limit


def test_a_single_test_is_not_exact():
    """At rho = 0 the statistic is Student's t: 5 % of all cells are beyond its quantile, no fewer and no more."""
    draw = np.random.default_rng(3)
    beyond = np.concatenate(
        [
            np.abs(found.statistic[~np.eye(N, dtype=bool)]) > student_quantile(0.975, found.freedom)
            for found in (simulated(draw, rho=0, control_seeds=4, is_paired=False) for _ in range(3000))
        ]
    )
    assert found_freedom(draw) == 3
    assert abs(beyond.mean() - 0.05) < 0.006  # cells of a matrix share their denominators: about four standard errors


def found_freedom(draw):
    return simulated(draw, rho=0, control_seeds=4, is_paired=False).freedom


@pytest.mark.parametrize("is_paired", [False, True])
def test_a_planted_dependence_is_missed(is_paired):
    planted = np.zeros((N, N))
    planted[2, 1] = 12.0  # leaving c out moves b by 12 sigma
    draw, families = np.random.default_rng(1), 200
    seen = np.zeros((N, N), int)
    for _ in range(families):
        seen += simulated(draw, rho=0, control_seeds=6, is_paired=is_paired, dependence=planted).p_holm <= 0.05
    assert seen[2, 1] > 0.9 * families
    seen[2, 1] = 0
    assert seen.max() < 0.06 * families


def test_the_correction_is_not_holms():
    """By hand: .01 x 4, .02 x 3 = .06, .03 x 2 = .06, .04 x 1 -> not below .06; another order is the same."""
    assert holm(np.array([0.04, 0.01, 0.03, 0.02])) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9, 0.6])) == pytest.approx([1, 1, 1])
    assert holm(np.array([])).tolist() == []


def test_a_small_example_comes_out_otherwise():
    """Two experiments, two control seeds: sd = sqrt 2 / 2 and sqrt 2, one degree of freedom, P(|T| > 1) = 1/2."""
    found = judge(("a", "b"), np.array([[1.0, 5], [1, 4], [2, 6]]), np.array([[[3.0, 7]], [[2, 9]]]))
    assert found.effects.tolist() == [[2, 2], [1, 4]]
    assert found.error == pytest.approx(np.array([[1, 2], [1, 2]]))
    assert found.statistic == pytest.approx(np.array([[2, 1], [1, 2]]))
    assert found.freedom == 1
    assert found.p[0, 1] == pytest.approx(0.5)
    assert found.p_holm[1, 0] == pytest.approx(1)
    assert np.isnan(np.diagonal(found.p_holm)).all()
    assert found.matrix().rows() == [("nothing", 1, 5), ("a", 3, 7), ("b", 2, 9)]
    paired = judge(("a",), np.array([[1.0], [3]]), np.array([[[2.0], [6]]]))
    assert (paired.effects.item(), paired.error.item(), paired.freedom) == (2, 1, 1)


def test_noise_that_is_not_known_is_taken_for_none():
    with pytest.raises(RunError, match=r"metric of b does not change with the seed: .* continuous"):
        judge(("a", "b"), np.array([[1.0, 5], [1, 5], [2, 5]]), np.zeros((2, 1, 2)))
    with pytest.raises(RunError, match=r"1 control seeds found, at least 2"):
        judge(("a",), np.array([[1.0], [2]]), np.zeros((1, 1, 1)))


def test_a_report_lacks_the_cell_that_depends():
    found = judge(("a", "b"), np.array([[0.0, 0], [0, 0], [1, 1], [2, 2]]), np.array([[[90.0, 80]], [[0, 0.1]]]))
    verdicts, figure, table = blocks(found)
    assert isinstance(verdicts, Verdicts)
    assert isinstance(figure, Figure)
    (dependence, control) = verdicts.verdicts
    assert (dependence.state, control.state) == ("fails", "inconclusive")
    assert "a moves b" in dependence.evidence
    assert paper_spec(figure.chart)
    assert table.frame.filter(~table.frame["is_own"])["p_holm"].null_count() == 0


# --- runs --------------------------------------------------------------------------------------------------------------


def fake_runs(tmp_path, *runs):
    """Run directories with a config and the two metrics of an evaluation."""
    from paribus import config as configs
    from tiny_runs import coins_run

    made = []
    for number, (without, seed, one, two) in enumerate(runs):
        _, config = coins_run(tmp_path)
        experiments = {name: Texts(file="nowhere.jsonl") for name in ("a", "b")}
        seeds = config.seeds.model_copy(update={"order": seed})
        config = config.model_copy(
            update={"insertions": InsertionsConfig(experiments=experiments, without=without), "seeds": seeds}
        )
        run = RunDir(tmp_path / f"run{number}")
        run.make()
        run.config_path.write_text(configs.dump(config))
        summary = {"one": one, "two": two}
        write_result(run.evals, "memory", 6, EvalResult({"kind": "canary", "summary": summary}))
        made.append(run.path)
    return made


METRICS = {"a": ("memory", "one"), "b": ("memory", "two")}


def test_runs_of_a_sweep_are_mixed_up(tmp_path):
    runs = fake_runs(
        tmp_path, ([], 0, 1.0, 5.0), (["b"], 0, 2.0, 9.0), ([], 1, 1.0, 4.0), (["a"], 0, 3.0, 7.0), ([], 2, 2.0, 6.0)
    )
    found = measure(sort_runs(runs), METRICS)
    assert (found.effects.tolist(), found.is_paired) == ([[2, 2], [1, 4]], False)
    pairs = fake_runs(tmp_path / "p", ([], 0, 1.0, 5.0), (["a"], 1, 6.0, 6.0), ([], 1, 3.0, 4.0), (["a"], 0, 2.0, 7.0))
    found = measure(sort_runs(pairs), {"a": ("memory", "one")})
    assert (found.effects.item(), found.error.item(), found.is_paired) == (2, 1, True)
    with pytest.raises(RunError, match=r"no run leaves out b; found runs without a"):
        measure(sort_runs(pairs), METRICS)
    with pytest.raises(RunError, match=r"`memory` has no metric 'three'; it has one, two"):
        measure(sort_runs(pairs), {"a": ("memory", "three")})
    with pytest.raises(RunError, match=r"run2 and .*run0: have the same seeds and leave out the same"):
        sort_runs([*runs, fake_runs(tmp_path / "q", *[([], 5, 0, 0)] * 2, ([], 0, 8.0, 8.0))[2]])
    with pytest.raises(RunError, match=r"no full run has the seeds"):
        sort_runs([runs[0], pairs[1]])


def test_a_sweep_under_way_has_no_report(tmp_path):
    runs = fake_runs(tmp_path, ([], 0, 1.0, 5.0), (["a"], 0, 3.0, 7.0))
    (said,) = dependence_blocks(runs, {"a": ("memory", "one")})
    assert said == "Not tested: 0 control seeds found, at least 2 are needed for a noise floor."
    (said,) = dependence_blocks(runs[1:], {"a": ("memory", "one")})
    assert "the full run is missing" in str(said)


def test_what_is_left_out_does_not_exist():
    experiments = {name: Texts(file="x.jsonl") for name in ("canaries", "facts")}
    assert list(InsertionsConfig(experiments=experiments, without=["facts"]).kept) == ["canaries"]
    from paribus import config as configs

    for without, control, message in (
        (["canarys"], False, 'no experiment .canarys.; those are: canaries, facts, did you mean "canaries"'),
        (["facts", "facts"], False, "each name once"),
        (["facts"], True, "the control inserts nothing"),
    ):
        mapping = {
            "experiments": {name: {"kind": "texts", "file": "x.jsonl"} for name in experiments},
            "without": without,
            "control": control,
        }
        with pytest.raises(ConfigError, match=message):
            configs.from_mapping(mapping, InsertionsConfig)
