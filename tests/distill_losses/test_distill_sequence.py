"""Texts as targets, and texts of the student's own: what is written, what is learnt, and that a stopped run goes on."""

import json

import pytest
import tiny_folder
import torch
import transformers
from distilling import hurry, make_teacher, quick, stopped_after, trace

from distill.runs.pair import build_pair
from distill.runs.run import run_distillation
from distill.runs.settings import DistillSettings
from distill.teacher.rows import load_rows
from distill.teacher.sequence import FILE, OnPolicy, teacher_rows
from training import train_model
from training.data.batching import Steps
from training.data.data import load_task
from training.data.ignored import IGNORE
from training.data.tasks import find_task
from training.evaluation.generation import continue_prompts
from training.runs.run_folder import TRAINED

SPEC = find_task("data2text")
QUICK = {"losses": ("kd:T=1,a=1",), "train_rows": 20, "max_new_tokens": 24, "steps": 6, "eval_every": 3, "save_every": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """The pretrained decoder, trained a little, so that its texts end."""
    out = tmp_path_factory.mktemp("writer")
    options = {"trackers": "", "samples": 0, "score_texts": 0, "eval_rows": 20, "steps": 60, "threads": 1}
    train_model("data2text", method="full", out=str(out), **options)
    return str(out / TRAINED)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    hurry(monkeypatch)


def test_continuations_do_not_depend_on_the_prompts_beside_them_and_end_where_the_text_ends(teacher, tmp_path):
    base = build_pair(quick(tmp_path, teacher, **QUICK)).trained.base
    rows = load_task(SPEC, None, 0, 12)["train"]
    prompts = [base.tokenizer(text + SPEC.prompt_end)["input_ids"] for text in rows["meaning_representation"]]
    together = continue_prompts(base.model, base.tokenizer, prompts, 24, 4, do_sample=False)
    alone = [continue_prompts(base.model, base.tokenizer, [prompt], 24, do_sample=False)[0] for prompt in prompts]
    assert together == alone
    assert all(base.tokenizer.eos_token_id not in ids[:-1] and 0 < len(ids) <= 24 for ids in together)


def test_targets_are_the_teachers_texts_written_once(teacher, tmp_path, monkeypatch):
    settings = quick(tmp_path / "run", teacher, **QUICK | {"losses": ("hard",)}, targets="teacher", beams=2)
    pair = build_pair(settings)
    train = load_task(SPEC, None, 0, 20)["train"]
    about = pair.trained.base, 2, 24, tmp_path / "texts", 7
    rows = teacher_rows(train, SPEC, *about)
    assert set(rows["meaning_representation"]) <= set(train["meaning_representation"])
    assert len(rows) == len(set(rows["meaning_representation"])) > 5
    prompt = pair.trained.base.tokenizer(rows[0]["meaning_representation"] + SPEC.prompt_end)["input_ids"]
    writer = pair.trained.base
    [best] = continue_prompts(writer.model, writer.tokenizer, [prompt], 24, num_beams=2, do_sample=False)
    assert writer.tokenizer.decode(best, skip_special_tokens=True).strip() == rows[0]["human_reference"]
    monkeypatch.setattr("distill.teacher.sequence.continue_prompts", lambda *_, **__: pytest.fail("written again"))
    assert teacher_rows(train, SPEC, *about)[:] == rows[:]
    with pytest.raises(pytest.fail.Exception, match="written again"):
        teacher_rows(train, SPEC, *about[:-1], 8)  # another teacher
    with pytest.raises(pytest.fail.Exception, match="written again"):
        teacher_rows(train.select([0, *range(len(train) - 1, 0, -1)]), SPEC, *about)  # as many prompts, the first the same
    assert (tmp_path / "texts" / FILE).exists()


def test_a_teacher_that_finishes_nothing_is_told(tmp_path):
    untrained = make_teacher(tmp_path / "untrained", "data2text")
    settings = quick(tmp_path / "run", untrained, **QUICK | {"losses": ("hard",), "max_new_tokens": 1}, targets="teacher")
    with pytest.raises(ValueError, match="finished none"):
        run_distillation(settings)


def test_own_texts_follow_the_prompts_are_not_learnt_as_labels_and_come_in_their_share(teacher, tmp_path):
    pair = build_pair(quick(tmp_path, teacher, **QUICK))
    reader = pair.student.tokenizer, 128
    rows = load_rows(SPEC, None, 0, (20, 0), 4, reader, reader)
    plain = Steps(rows.train, pair.student.tokenizer, 5, 0)
    torch.manual_seed(0)
    own = OnPolicy(Steps(rows.train, pair.student.tokenizer, 5, 0), pair.student, 0.5, 8, 0)
    changed = 0
    for _ in range(40):
        [before], [after] = next(plain), next(own)
        if "example" in after:
            assert torch.equal(before["input_ids"], after["input_ids"])
            continue
        changed += 1
        for i in range(5):
            start = int((before["labels"][i] != IGNORE).int().argmax())
            assert torch.equal(before["input_ids"][i, :start], after["input_ids"][i, :start])
            assert (after["labels"][i, :start] == IGNORE).all() and after["labelled"][i] == 0
            real = after["attention_mask"][i].bool()
            assert torch.equal(after["labels"][i, start:][real[start:]], after["input_ids"][i, start:][real[start:]])
    assert 10 <= changed <= 30  # 40 draws at one half: four standard deviations


def test_own_texts_are_drawn_from_the_students_distribution_whatever_its_folder_recommends(teacher, tmp_path):
    pair = build_pair(quick(tmp_path, teacher, **QUICK))
    reader = pair.student.tokenizer, 128
    rows = load_rows(SPEC, None, 0, (20, 0), 4, reader, reader)

    def drawn() -> torch.Tensor:
        torch.manual_seed(0)
        return next(OnPolicy(Steps(rows.train, pair.student.tokenizer, 5, 0), pair.student, 1.0, 8, 0))[0]["input_ids"]

    plain, config = drawn(), pair.student.model.generation_config
    config.temperature, config.top_p, config.top_k = 0.01, 0.05, 1
    assert torch.equal(drawn(), plain)


@pytest.mark.parametrize("changes", [{"on_policy": 0.5}, {"targets": "teacher", "beams": 2}])
def test_a_stopped_run_goes_on_to_the_same_bits(changes, teacher, tmp_path):
    run_distillation(quick(tmp_path / "whole", teacher, **QUICK, **changes))
    stopped_after(5, quick(tmp_path / "run", teacher, **QUICK, **changes))
    run_distillation(quick(tmp_path / "run", teacher, **QUICK, **changes))
    assert trace(tmp_path / "run") == trace(tmp_path / "whole")


def test_what_makes_no_sense_is_refused(teacher, tmp_path):
    for changes, words in (
        ({"on_policy": 1.5}, "0 to 1"),
        ({"on_policy": 0.5, "cache": "c"}, "no cache"),
        ({"on_policy": 0.5, "losses": ("hard",)}, "a loss on logits"),
        ({"targets": "teacher", "transfer_rows": 5}, "give all as train_rows"),
    ):
        with pytest.raises(ValueError, match=words):
            quick(tmp_path, teacher, **QUICK | changes)
    labels = make_teacher(tmp_path / "labels")
    with pytest.raises(ValueError, match="tasks that write"):
        run_distillation(quick(tmp_path / "x", labels, on_policy=0.5))


@pytest.mark.parametrize("losses", [("hidden:1->1", "hard"), ("hard",)])
def test_a_student_whose_table_is_padded_otherwise_is_measured_on_the_common_vocabulary(losses, tmp_path):
    """Qwen's small and large models share a tokenizer, and their tables have 151,936 and 152,064 rows."""
    rows = [{"prompt": f"Say the number {i}.", "completion": f" It is {i}."} for i in range(12)]
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "validation"):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    large, small = tiny_folder.decoder(tmp_path / "large"), tiny_folder.decoder(tmp_path / "small")
    model = transformers.AutoModelForCausalLM.from_pretrained(large)
    model.resize_token_embeddings(416, mean_resizing=False)
    model.save_pretrained(large)
    options = {"data_dir": str(data), "trackers": "", "samples": 0, "score_texts": 0, "eval_rows": 4, "steps": 2, "threads": 1}
    train_model("prompt", model=large, method="full", out=str(tmp_path / "teacher"), **options)
    settings = DistillSettings(
        teacher=str(tmp_path / "teacher" / TRAINED),
        student=small,
        losses=losses,
        data_dir=str(data),
        steps=3,
        eval_every=3,
        eval_rows=4,
        out=str(tmp_path / "run"),
    )
    result = run_distillation(settings)
    assert 0 <= result["agreement"] <= 1 and 0 < result["kl_to_teacher"] < 20
