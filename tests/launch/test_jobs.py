"""What a sweep says of its runs."""

from pathlib import Path

from paribus.launch.jobs import Ending, SweepResult, make_jobs, plan
from paribus.rundir import RunDir
from tiny_grids import one, points


def ending(name: str, state: str, seconds: float, num_runs: int) -> Ending:
    return Ending(RunDir(Path(name)), state, "", seconds, num_runs)  # type: ignore[arg-type]


def test_the_last_line_counts_the_runs_of_programs_and_not_their_directories():
    result = SweepResult((ending("a", "done", 0, 21), ending("b", "done", 4.0, 1), ending("c", "stopped", 1.0, 1500)))
    assert result.line() == "1,522 runs in 3 directories: 22 done (21 already), 1,500 stopped"
    assert SweepResult((ending("a", "done", 1.0, 2),)).line() == "2 runs in 1 directory: 2 done"
    assert SweepResult((ending("b", "failed", 4.0, 1),)).line() == "1 run: 0 done, 1 failed"


def test_the_job_of_a_program_knows_how_many_runs_it_carries_out(tmp_path):
    alone = one(
        tmp_path,
        data={"kind": "polynomial", "input_dim": 9},
        train={**one(tmp_path).train.model_dump(), "budget": {"steps": 1}},
    )
    jobs = make_jobs([*points(one(tmp_path), [0.1, 0.2], [1.0, 10.0]), alone], lambda _launch: 1)
    assert [job.num_runs for job in jobs] == [4, 1]


def test_a_plan_has_one_run_and_several_gammas(tmp_path):
    assert list(plan([one(tmp_path)]))[1] == "  1 run: 1 gamma, 1 eta; 30 steps of 16 samples each"
    several = points(one(tmp_path), [0.1, 0.2], [1.0, 10.0])
    assert list(plan(several))[1] == "  4 runs: 2 gammas, 2 etas; 30 steps of 16 samples each"
