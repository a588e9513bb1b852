"""Teacher and student with different tokens or tables: what needs none in common works, the rest is refused before the work."""

import json

import families
import pytest
from family_models import FAMILIES, save_family, tokenizer_of

from distill import DistillSettings, run_distillation
from distill.teacher import sequence
from training.runs.run import train_model

QUICK = {"trackers": "", "threads": 1, "batch_size": 4, "eval_every": 4}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(the teacher's folder, a student with other tokens, a student with a larger table, the data)."""
    root = tmp_path_factory.mktemp("made")
    data = families.write_data(root / "data")["prompt"]
    base = save_family(FAMILIES["Qwen2"], root / "base")
    options = {"samples": 1, "max_new_tokens": 12, "learning_rate": 1e-2, "max_length": 64}
    teacher = train_model("prompt", model=base, data_dir=data, method="full", steps=60, out=str(root / "t"), **QUICK, **options)
    other = save_family(FAMILIES["Mistral"], root / "other")
    wide = root / "wide"
    save_family(FAMILIES["Qwen3"], wide)
    import transformers as T

    config = FAMILIES["Qwen3"].config()
    config.vocab_size += 28
    T.AutoModelForCausalLM.from_config(config).save_pretrained(wide)
    tokenizer_of("bytes", "left", ends=False).save_pretrained(wide)
    return str(teacher.folder / "adapter"), other, str(wide), data


def settings(made, student, out, **changes):
    return DistillSettings(teacher=made[0], student=student, data_dir=made[3], steps=4, out=str(out), **QUICK, **changes)


def test_a_student_with_other_tokens_learns_the_teachers_texts(made, tmp_path):
    result = run_distillation(
        settings(made, made[1], tmp_path / "s", losses=("hard",), targets="teacher", max_new_tokens=40, score_texts=2)
    )
    assert "bleu" in result and "agreement" not in result  # texts can be compared, distributions over other tokens cannot
    assert result["data"]["train"]["examples"] > 0
    written = (tmp_path / "s" / "targets.jsonl").read_text().splitlines()
    assert len(written) == 1 + json.loads(written[0])["prompts"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("losses", "words"),
    [
        (("kd:T=2,a=0.5",), "different tokenizers, and prompt has an answer for every token"),
        (("hidden:1->1", "hard"), "their tokens' hidden states cannot be compared"),
        (("relations:1->9", "hard"), "layer 9"),
    ],
)
def test_what_cannot_work_is_refused_before_the_teacher_writes(losses, words, made, tmp_path, monkeypatch):
    monkeypatch.setattr(sequence, "continue_prompts", lambda *a, **k: pytest.fail("the teacher wrote"))
    with pytest.raises(ValueError, match=words):
        run_distillation(settings(made, made[1], tmp_path / "s", losses=losses, targets="teacher"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("loss", ["kd:T=2,a=0.5", "reverse_kl:a=0.5", "mse:a=0.5"])
def test_tables_of_two_sizes_are_compared_on_their_common_vocabulary(loss, made, tmp_path):
    result = run_distillation(settings(made, made[2], tmp_path / "s", losses=(loss,)))
    assert 0 <= result["agreement"] <= 1 and result["steps"] == 4
