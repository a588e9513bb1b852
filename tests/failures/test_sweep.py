"""The classes of transformers against the table `SWEEP.md`: what worked works, and nothing fails in silence.

`make test` tries four classes, which the commit's hash chooses; `make test-slow` tries all.
"""

import random

import pytest
import sweep
import transformers
from commit_choice import current_commit

VERSION, ROWS = sweep.read_table()
NAMES = [row["class"] for row in ROWS]
TODAY = set(random.Random(current_commit()).sample(NAMES, 4))


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row["class"], marks=[] if row["class"] in TODAY else [pytest.mark.slow]) for row in ROWS]
)
def test_a_class_gives_what_the_table_says(row):
    if not hasattr(transformers, row["class"]):
        pytest.skip(f"transformers {transformers.__version__} has no {row['class']}")
    result = sweep.try_class(row["class"], row["task"])
    assert not [value for value in result.values() if value.startswith("silent")], result
    if transformers.__version__ == VERSION:
        worse = {
            check: value
            for check, value in result.items()
            if value != sweep.WORKS and value.split(":")[0] != row[check].split(":")[0]
        }
        assert not worse, f"the table says {row}"


def test_the_table_has_every_class_and_no_silent_failure():
    if transformers.__version__ == VERSION:
        assert sorted(NAMES) == sorted(name for _, _, name in sweep.tiny.classes())
    assert not [row for row in ROWS if any(value.startswith("silent") for value in row.values())]
    working = sum(row["lora"].startswith(sweep.WORKS) for row in ROWS)
    assert working > 400, working


def test_a_module_that_reads_the_weight_would_be_found():
    """The sweep can fail: a class whose LoRA is never called, and one whose head is frozen."""
    model = sweep.adapted("BertForSequenceClassification", "SEQ_CLS")
    given = sweep.tiny.inputs(model)
    sweep.step(model, given)
    layer = model.bert.encoder.layer[0].attention.self.query
    layer.forward = lambda x: x @ layer.weight.T + layer.bias
    with pytest.raises(AssertionError, match="without a gradient"):
        sweep.step(model, given)
