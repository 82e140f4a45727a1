import pytest

from paribus import config as configs
from paribus.errors import ConfigError
from paribus.train.config import LaunchConfig


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"extra": {"mem": "4G"}}, "mem: launch.slurm.memory_gib sets it"),
        ({"extra": {"cpus_per_task": 4}}, "cpus_per_task: launch.slurm.cpus sets it"),
        ({"extra": {"job-name": "x"}}, "job-name: the launcher sets it"),
        (
            {"extra": {"exclusive": False}},
            "exclusive: the name of a flag, without dashes before it, and a value or true",
        ),
        ({"extra": {"--constraint": "a"}}, "--constraint: the name of a flag, without dashes"),
        ({"time_limit_min": 2, "stop_before_s": 120}, "stop_before_s: found 120, but time_limit_min: 2 is only 120 s"),
        ({"partitoin": "gpu"}, 'did you mean "partition"'),
    ],
)
def test_what_slurm_could_not_follow_is_refused(section, message):
    with pytest.raises(ConfigError) as caught:
        configs.from_mapping({"slurm": section}, LaunchConfig)
    assert message in str(caught.value)
