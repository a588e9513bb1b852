"""The families of models against the table `FAMILIES.md`: what worked works, and nothing fails in silence.

`make test` tries one family, which the commit's hash chooses; `make test-slow` tries all.
"""

import random

import families
import pytest
import torch
import transformers
from commit_choice import current_commit

TABLE = families.read_table()
TODAY = set(random.Random(current_commit()).sample(sorted(TABLE), 1))
THIS_VERSION = f"transformers {transformers.__version__}" in families.TABLE.read_text().splitlines()[0]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in TODAY else [pytest.mark.slow]) for n in TABLE])
@pytest.mark.timeout(300)
def test_a_family_gives_what_the_table_says(name):
    result = families.try_family(name)
    assert not [value for value in result.values() if value.startswith("silent")], result
    if THIS_VERSION:
        worse = {
            run: value for run, value in result.items() if value != families.WORKS and TABLE[name].get(run) == families.WORKS
        }
        assert not worse, worse


def test_the_table_has_every_family_and_no_silent_failure():
    assert list(TABLE) == list(families.FAMILIES) and len(TABLE) >= 25
    cells = [value for result in TABLE.values() for value in result.values()]
    assert not [value for value in cells if value.startswith("silent")]
    assert sum(value == families.WORKS for value in cells) > 200
    assert {family.tokens for family in families.FAMILIES.values()} == {"bytes", "wordpiece", "pieces"}
    assert {family.side for family in families.FAMILIES.values()} == {"left", "right"}


def test_the_checks_can_fail(tmp_path):
    """A model that was changed after it was saved, and one whose answers depend on the rows beside it."""
    from training.data.tasks import find_task
    from training.models.base_models import load_base

    base = families.save_family(families.FAMILIES["RoBERTa"], tmp_path / "base")
    data = families.write_data(tmp_path / "data")
    one, other = (load_base(find_task("sst2"), base, seed=0) for _ in range(2))
    features = families.features_of("sst2", data["sst2"], one.tokenizer)
    families.same_bits(one.model, one.tokenizer, other.model, other.tokenizer, features)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    with pytest.raises(AssertionError, match="answers differently"):
        families.same_bits(one.model, one.tokenizer, other.model, other.tokenizer, features)
    mixing = load_base(find_task("sst2"), families.save_family(families.FAMILIES["FNet"], tmp_path / "fnet"))
    with pytest.raises(AssertionError, match="alone differs"):
        families.same_alone(mixing.model, mixing.tokenizer, families.features_of("sst2", data["sst2"], mixing.tokenizer))
