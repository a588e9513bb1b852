"""Models whose parts stand elsewhere than BERT's: they work, or one sentence says why not, before the run."""

import families
import pytest
import torch
import transformers as T
from family_models import BERT, FAMILIES, T5, save_family
from torch import nn

from adapters import PrefixTuningConfig, PromptTuningConfig
from adapters.virtual.virtual_tokens import add_virtual_tokens
from training.data.tasks import find_task
from training.loop.checks import NoGradientError, assert_all_got_gradients
from training.models.base_models import load_base
from training.runs.run import train_model

QA = {"T5": T.T5Config(**T5), "mT5": T.MT5Config(**T5), "UMT5": T.UMT5Config(**T5)}


@pytest.mark.parametrize("name", list(QA))
def test_a_head_for_questions_beside_the_parts_of_t5_is_new(name, tmp_path):
    torch.manual_seed(0)
    T.AutoModel.from_config(QA[name]).save_pretrained(tmp_path)
    families.save_family(FAMILIES["T5"], tmp_path / "tokens")
    base = load_base(find_task("squad"), str(tmp_path), tokenizer=str(tmp_path / "tokens"))
    assert base.new_modules == ("qa_outputs",)


@pytest.mark.fault
def test_a_whole_part_that_is_missing_is_no_head(tmp_path):
    torch.manual_seed(0)
    model = T.AutoModel.from_config(QA["T5"])
    remaining = {name: p for name, p in model.state_dict().items() if not name.startswith("decoder.block")}
    model.save_pretrained(tmp_path, state_dict=remaining)
    families.save_family(FAMILIES["T5"], tmp_path / "tokens")
    with pytest.raises(ValueError, match="would stay random"):
        load_base(find_task("squad"), str(tmp_path), tokenizer=str(tmp_path / "tokens"))


PROMPTED = {
    "ALBERT": (T.AlbertForSequenceClassification, T.AlbertConfig(embedding_size=16, **BERT)),
    "BigBird": (T.BigBirdForSequenceClassification, T.BigBirdConfig(**BERT)),
    "Longformer": (T.LongformerForSequenceClassification, T.LongformerConfig(attention_window=8, **BERT)),
    "ALBERT, tokens": (T.AlbertForTokenClassification, T.AlbertConfig(embedding_size=16, **BERT)),
}


@pytest.mark.parametrize("name", list(PROMPTED))
def test_a_prompt_before_poolers_of_other_kinds(name):
    """The answer keeps its shape, the prompt changes it, and it learns."""
    cls, config = PROMPTED[name]
    torch.manual_seed(0)
    model, ids = cls(config).eval(), torch.arange(20).view(2, 10) + 5
    with torch.no_grad():
        plain = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    add_virtual_tokens(model, PromptTuningConfig(num_virtual_tokens=4), seed=0)
    prompted = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert prompted.shape == plain.shape and not torch.allclose(prompted, plain)
    prompted.sum().backward()
    [table] = [p for n, p in model.named_parameters() if "virtual_tokens" in n]
    assert table.grad.abs().sum() > 0


@pytest.mark.fault
def test_a_prefix_on_latent_attention_is_refused():
    torch.manual_seed(0)
    for name in ("DeepSeek-V3",):
        model = T.AutoModelForCausalLM.from_config(FAMILIES[name].config())
        with pytest.raises(ValueError, match="keys and values have different widths"):
            add_virtual_tokens(model, PrefixTuningConfig(num_virtual_tokens=4), seed=0)


@pytest.mark.parametrize("family", ["Longformer", "XLNet"])
def test_tensors_that_no_answer_needs_are_named_and_the_rest_trains(family, tmp_path, capsys):
    data, base = families.write_data(tmp_path / "data"), save_family(FAMILIES[family], tmp_path / "base")
    task, named = {"Longformer": ("ud_pos", "query_global"), "XLNet": ("sst2", "mask_emb")}[family]
    options = {"method": "full", "samples": 0, "out": str(tmp_path / "run")} | families.SHORT
    run = train_model(task, model=base, data_dir=data[task], **options)
    text = capsys.readouterr()
    assert named in text.out + text.err and "no part of the answer" in text.out + text.err
    assert run.rows[-1]["loss"] < run.rows[1]["loss"]


class Cut(nn.Module):
    """Three layers and a head; the graph is cut before layer `at`, and `spare` is never used."""

    def __init__(self, at: int | None = None):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head, self.spare, self.at = nn.Linear(4, 2), nn.Linear(4, 2), at

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x.detach() if i == self.at else x)
        return self.head(x)


@pytest.mark.fault
def test_what_may_be_without_a_gradient():
    """An unused part, named; but not a head, not what lies below a cut, and nothing where everything is needed."""
    text = []
    for at, needed, fits in ((None, ("head",), True), (2, ("head",), False), (None, ("spare",), False), (None, None, False)):
        model = Cut(at)
        model(torch.randn(3, 4)).sum().backward()
        if fits:
            assert_all_got_gradients(model, (), needed, text.append)
            continue
        with pytest.raises(NoGradientError, match="got no gradient"):
            assert_all_got_gradients(model, (), needed, text.append)
    assert len(text) == 1 and "spare.weight" in text[0]
