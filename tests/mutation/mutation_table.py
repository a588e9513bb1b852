"""The core files that `mutate.py` mutates, and the tests of each: test files without `test_`, the most specific first.

Core is the library's own logic. A file is named `package.stem`, whatever sub-folder it lies in. Test files that take long
(processes, kills, comparisons, whole runs) stand here only where no shorter one tests the same.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("kernels", "loralib", "adapters", "training", "multitask", "distill")
NOT_CORE = {
    "kernels": "ahead_of_time configs roofline",  # tools of the benchmarks, and tile sizes, which change the time alone
    "training": "benchmark command_line compare conditions gap interrupt method_configs option_groups own_process "
    "pretrain processes progress records result "
    "result_table run run_folder sealed setting_checks settings step_time threads trackers",
    "multitask": "compare fusion_study option_groups run settings step_time transfer weightings",
    "distill": "compare measured option_groups run settings",
}
"""Runs, their folders and settings, comparisons, measurements, reports: beside commands and pages, which are left out by name."""

TESTS = {
    "kernels": {
        "blockwise8": "training_qlora",
        "dora_matmul": "loralib_dora",
        "grouped_lora": "kernels_grouped loralib_mixed_batch",
        "grouped_lora_triton": "kernels_grouped",
        "lora_augmented": "kernels_bench",
        "lora_backward_triton": "kernels_lora_triton",
        "lora_matmul": "kernels_lora_matmul kernels_lora_triton loralib_functional",
        "lora_matmul_triton": "kernels_lora_triton kernels_nf4_triton",
        "measure": "kernels_lora_matmul loralib_functional",
        "nf4": "kernels_nf4 loralib_files4bit loralib_qlora",
        "nf4_matmul_triton": "kernels_nf4_triton",
        "nf4_triton": "kernels_nf4_triton",
        "ops": "loralib_choice loralib_dispatch",
        "philox": "kernels_lora_triton",
        "tiles_triton": "kernels_grouped kernels_lora_triton kernels_nf4_triton",
    },
    "loralib": {
        "adapter_files": "loralib_file_settings loralib_checkpoint",
        "biases": "loralib_handles loralib_orders loralib_variants loralib_checkpoint loralib_inject",
        "casting": "loralib_functional loralib_dispatch loralib_dora",
        "checkpoint": "loralib_word_tables loralib_checkpoint loralib_variants",
        "class_source": "loralib_never_called loralib_inject",
        "combine": "loralib_combine",
        "config": "loralib_inject loralib_checkpoint loralib_variants loralib_starts",
        "counting": "loralib_counting",
        "dispatch": "loralib_choice loralib_dispatch",
        "dora": "loralib_dora loralib_variants",
        "explanation": "loralib_choice",
        "file_settings": "loralib_file_settings loralib_checkpoint",
        "file_tensors": "loralib_checkpoint adapters_checkpoint",
        "foreign_layers": "loralib_packed_folders",
        "forwards": "loralib_handles",
        "functional": "loralib_functional loralib_dispatch",
        "fused": "loralib_functional loralib_dispatch loralib_choice",
        "grouped": "loralib_mixed_batch loralib_dispatch",
        "handles": "loralib_handles",
        "heads": "loralib_inject loralib_mixed_batch loralib_checkpoint",
        "hotswap": "loralib_mixed_batch loralib_orders",
        "ia3": "loralib_variants loralib_orders",
        "injection": "loralib_inject loralib_orders",
        "layers": "loralib_layers loralib_variants loralib_merge loralib_mixed_batch",
        "lazy": "training_command_line",
        "linear4bit": "loralib_qlora loralib_quantize_model loralib_files4bit",
        "load4bit": "loralib_files4bit",
        "lora_layer": "loralib_layers loralib_merge loralib_inject loralib_variants loralib_mixed_batch",
        "lora_plus": "loralib_starts",
        "matching": "loralib_never_called loralib_file_settings loralib_inject loralib_variants",
        "merge4bit": "loralib_merge4bit loralib_qlora",
        "merge_weights": "loralib_merge loralib_orders",
        "merging": "loralib_combine",
        "microsoft": "loralib_microsoft",
        "mixed_batches": "loralib_mixed_batch",
        "model_files": "loralib_packed_folders loralib_files4bit",
        "never_called": "loralib_never_called",
        "no_gradient": "loralib_no_gradient",
        "nf4_files": "loralib_files4bit",
        "peft_config": "loralib_file_settings loralib_checkpoint loralib_variants loralib_orders",
        "peft_objects": "loralib_peft_objects",
        "plain_autograd": "loralib_second_derivatives",
        "pissa": "loralib_starts",
        "qlora": "loralib_qlora loralib_quantize_model",
        "rows": "loralib_mixed_batch loralib_dispatch",
        "rslora": "loralib_starts loralib_variants",
        "save4bit": "loralib_files4bit",
        "setting_types": "loralib_file_settings",
        "stacked_weights": "loralib_stacked_weights",
        "word_tables": "loralib_word_tables",
        "slots": "loralib_variants loralib_inject",
        "switch": "loralib_orders loralib_inject loralib_layers",
    },
    "adapters": {
        "attachment": "adapters_architectures adapters_bottleneck adapters_checkpoint",
        "attention": "adapters_virtual_families adapters_virtual",
        "attention_options": "adapters_attention_options",
        "bottleneck": "adapters_bottleneck adapters_architectures adapters_checkpoint",
        "checkpoint": "adapters_checkpoint",
        "composition": "adapters_bottleneck adapters_architectures",
        "fuse": "adapters_bottleneck adapters_architectures adapters_checkpoint",
        "fusion": "adapters_bottleneck adapters_checkpoint",
        "fusion_files": "adapters_checkpoint",
        "never_ran": "adapters_never_ran",
        "places": "adapters_architectures",
        "prefix": "adapters_virtual adapters_virtual_input adapters_virtual_families",
        "prefix_hooks": "adapters_virtual adapters_virtual_families adapters_virtual_input",
        "prompt": "adapters_virtual adapters_virtual_input",
        "prompt_hooks": "adapters_never_ran adapters_virtual adapters_virtual_input adapters_virtual_families",
        "site": "adapters_architectures adapters_bottleneck",
        "virtual_files": "adapters_virtual adapters_virtual_input adapters_virtual_families",
        "virtual_tokens": "adapters_virtual adapters_virtual_input adapters_virtual_families",
    },
    "training": {
        "adamw8bit": "training_qlora",
        "base_models": "training_run training_bad_input training_qlora",
        "batching": "training_batching training_loop training_data",
        "chat": "training_generation",
        "content": "training_content",
        "checkpoint": "training_resume training_qlora",
        "checks": "training_architectures training_loop",
        "data": "training_data training_bad_input training_run",
        "data_checks": "training_bad_input training_hostile_input",
        "dry_run": "dry_runs",
        "encoding": "training_joined_text training_data training_generation training_metrics training_hostile_input",
        "evaluation": "training_data training_loop multitask_scores training_run",
        "fusing": "training_adapters",
        "generation": "training_generation",
        "labels": "training_labels",
        "loop": "training_loop training_resume",
        "methods": "training_adapters training_qlora training_run",
        "metrics": "training_metrics training_data training_generation",
        "padding": "training_padding",
        "paired": "training_compare",
        "randomness": "training_resume",
        "read_counts": "dry_runs",
        "schedules": "training_schedules",
        "small_world": "training_world training_data",
        "tasks": "training_data training_world training_run",
        "text_metrics": "training_metrics",
        "tokenizers": "training_world",
        "trained": "training_run training_adapters training_hostile_input",
        "world_tasks": "training_world training_metrics",
    },
    "multitask": {
        "balancing": "multitask_learned_weights multitask_steps",
        "comparison": "multitask_analysis",
        "data_manager": "multitask_data multitask_steps",
        "files": "multitask_members multitask_embeddings",
        "dry_run": "dry_runs",
        "fused_members": "multitask_members",
        "gradients": "multitask_gradients",
        "interference": "multitask_analysis",
        "mixed_batches": "multitask_data multitask_embeddings multitask_steps",
        "multitask_model": "multitask_model multitask_embeddings multitask_scores",
        "sampling": "multitask_sampling",
        "steps": "multitask_steps multitask_learned_weights",
        "task_adapters": "multitask_model multitask_embeddings",
        "task_embeddings": "training_padding multitask_embeddings",
        "task_gradients": "multitask_steps multitask_analysis",
        "task_heads": "multitask_model multitask_scores",
        "trainer": "multitask_learned_weights multitask_members",
        "zero_shot_classes": "multitask_analysis",
    },
    "distill": {
        "chosen_layers": "distill_chosen_layers",
        "compress": "distill_compressed_runs",
        "compress_config": "distill_compressed_runs distill_run",
        "compressed_files": "distill_int8_files distill_structured",
        "copy_spec": "distill_student",
        "cost": "distill_student distill_compare",
        "dry_run": "dry_runs",
        "fake_quant": "distill_int8 distill_pruning",
        "features": "distill_features distill_features_oracles distill_terms",
        "fidelity": "distill_fidelity distill_cache",
        "int8": "distill_int8 distill_int8_files",
        "int8_product": "distill_int8",
        "loss_words": "distill_terms",
        "losses": "distill_losses distill_losses_limits distill_terms",
        "magnitude": "distill_pruning",
        "many_tasks": "distill_many_tasks",
        "pair": "distill_run distill_sequence",
        "relations": "distill_features distill_features_oracles distill_terms",
        "rows": "distill_two_tokenizers distill_run distill_sequence",
        "sequence": "distill_sequence",
        "sites": "distill_sites distill_structured",
        "sparse_size": "distill_pruning",
        "states": "distill_states distill_terms",
        "structured": "distill_structured distill_pruning",
        "student": "distill_student",
        "student_files": "distill_compressed_runs",
        "teacher": "distill_cache distill_states distill_terms",
        "teacher_cache": "distill_cache",
        "terms": "distill_terms distill_states",
        "trainer": "distill_terms distill_states distill_run",
        "truth": "distill_fidelity",
    },
}


def core_files() -> dict[str, Path]:
    """Core files by `package.stem`."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            command = path.stem.startswith("__") or path.stem.endswith(("_command", "_page")) or path.stem == "report"
            if not command and "bench" not in path.parts and path.stem not in NOT_CORE.get(package, "").split():
                found[f"{package}.{path.stem}"] = path
    return found


def files_that_test(module: str) -> list[str]:
    """The test files of a core file, from the project's root; KeyError where the table lacks it."""
    package, stem = module.split(".")
    folders = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    names = (f"test_{name}.py" for name in TESTS[package][stem].split())
    return [folders[name].relative_to(ROOT).as_posix() if name in folders else f"tests/{name}" for name in names]
