"""Oracle: the content of files. A result may be made again from a moved file, and never be replaced by other content."""

import json

import pytest

from paribus import experiment
from paribus.errors import RunError
from paribus.evaluation import evaluate
from tiny_runs import text_run


def test_a_moved_file_is_the_same_evaluation_and_other_content_is_refused(tmp_path):
    directory, config = text_run(tmp_path, "evals={}")
    experiment.run(directory, config)
    rows = ['{"text": "ant bee cat"}\n', '{"text": "dog elk"}\n']
    (tmp_path / "a.jsonl").write_text("".join(rows))
    (tmp_path / "b.jsonl").write_text("".join(rows))
    (tmp_path / "c.jsonl").write_text("".join(rows[::-1]))
    file = tmp_path / "evals.yaml"

    def scored(name, **settings):
        section = {"kind": "canary", "file": str(tmp_path / name), **settings}
        file.write_text(json.dumps({"evals": {"canaries": section}}))
        return [(path.read_bytes(), dict(summary)) for path, summary in evaluate(directory.path, file, [])]

    (first, summary) = scored("a.jsonl")[0]
    (again, same) = scored("b.jsonl")[0]
    assert summary == same
    assert first.replace(b"a.jsonl", b"b.jsonl") == again
    with pytest.raises(
        RunError, match=r"made with other settings \(file: [0-9a-f]{64} there, [0-9a-f]{64} asked for\)"
    ):
        scored("c.jsonl")
    with pytest.raises(RunError, match=r"\(batch_size: 32 there, 3 asked for\)"):
        scored("a.jsonl", batch_size=3)
    with pytest.raises(RunError, match=r"references: absent there|references"):
        scored("a.jsonl", references={"kind": "file", "file": str(tmp_path / "c.jsonl")})
    (tmp_path / "a.jsonl").write_text(rows[0])
    with pytest.raises(RunError, match="made with other settings"):
        scored("a.jsonl")
