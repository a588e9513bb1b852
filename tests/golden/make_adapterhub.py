"""Makes adapterhub.safetensors: what AdapterHub's `adapters` computes with given weights. Run in an environment of its own:

    python -m venv ah && ah/bin/pip install torch==2.13.0 adapters==1.3.0 && ah/bin/python tests/golden/make_adapterhub.py

A small BERT (all its weights are in the file), its input, and for each kind of adapter the weights and the last hidden states;
for a fusion of two seq_bn adapters also the attention weights' effect on the output and the penalty.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

import adapters
from adapters import DoubleSeqBnConfig, ParBnConfig, SeqBnConfig
from adapters.bottleneck.composition import Average, Fuse, Stack

SIZES = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
torch.manual_seed(0)
model = BertModel(BertConfig(**SIZES, max_position_embeddings=12, **OFF)).eval()
saved = {f"base.{k}": v.clone() for k, v in model.state_dict().items() if "position_ids" not in k}
ids = torch.randint(0, 20, (3, 7))
mask = torch.ones_like(ids)
mask[0, 5:] = 0
saved |= {"ids": ids, "mask": mask}
adapters.init(model)


def output() -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids, attention_mask=mask).last_hidden_state.clone()


saved["out.base"] = output()
kinds = {
    "seq_bn": SeqBnConfig(reduction_factor=4),
    "double_seq_bn": DoubleSeqBnConfig(reduction_factor=4),
    "par_bn": ParBnConfig(reduction_factor=4),
}
for name, config in kinds.items():
    for copy in ("a", "b") if name == "seq_bn" else ("a",):
        model.add_adapter(f"{name}_{copy}", config=config)
for name, p in model.named_parameters():
    if ".adapters." in name:
        torch.nn.init.normal_(p, std=0.3)
        saved[f"adapter.{name}"] = p.detach().clone()
for name in ("seq_bn_a", "seq_bn_b", "double_seq_bn_a", "par_bn_a"):
    model.set_active_adapters(name)
    saved[f"out.{name}"] = output()
model.active_adapters = Stack("seq_bn_a", "seq_bn_b")
saved["out.stack"] = output()
model.active_adapters = Average("seq_bn_a", "seq_bn_b")
saved["out.average_halved"] = output()
fuse = Fuse("seq_bn_a", "seq_bn_b")
model.add_adapter_fusion(fuse, "dynamic")
model.active_adapters = fuse
saved["out.fusion_start"] = output()
saved["penalty_start"] = model.get_fusion_regularization_loss().detach().clone()
for name, p in model.named_parameters():
    if "adapter_fusion_layer" in name:
        saved[f"fusion_start.{name}"] = p.detach().clone()
        if not name.endswith("value.weight"):
            torch.nn.init.normal_(p, std=0.3)
        else:
            p.data += 0.1 * torch.randn_like(p)
        saved[f"fusion.{name}"] = p.detach().clone()
saved["out.fusion"] = output()
saved["penalty"] = model.get_fusion_regularization_loss().detach().clone()
path = Path(__file__).with_name("adapterhub.safetensors")
save_file({k: v.contiguous() for k, v in saved.items()}, path)
print(f"{path.name}: {len(saved)} tensors, {path.stat().st_size} bytes")
print("\n".join(k for k in saved if "adapter" in k or "fusion" in k))
