"""What settings of TRL (its configs, and PEFT's) and axolotl are called here, for those who come from there.

`docs/training.md` has the table as `table` makes it: `python -m lorry_trainer.habits`.
"""

from __future__ import annotations

# TRL, axolotl, here; "" where it has none, " or " between several
_ROWS = (
    ("model_name_or_path", "base_model", "`base`"),
    ("use_peft or load_in_4bit", "adapter or load_in_4bit", "`method: qlora`"),
    ("load_in_8bit", "load_in_8bit", "`method: qlora`: 4 bits, as it is served"),
    ("r or lora_r", "lora_r", "`lora.rank`"),
    ("lora_alpha", "lora_alpha", "`lora.alpha`"),
    ("lora_dropout", "lora_dropout", "`lora.dropout`"),
    (
        "lora_target_modules",
        "lora_target_modules or lora_target_linear",
        "`lora.target_modules` (`all-linear` is the default)",
    ),
    ("lora_modules_to_save", "lora_modules_to_save", "`lora.modules_to_save`"),
    ("use_rslora", "peft_use_rslora", "`lora.rslora`, or `method: rslora`"),
    ("use_dora", "peft_use_dora", "`lora.dora`, or `method: dora`"),
    ("init_lora_weights", "peft", "`method: pissa` or `method: loftq`"),
    ("loraplus_lr_ratio", "loraplus_lr_ratio", "`lora.learning_rate_ratio`"),
    ("bnb_4bit_quant_type", "", "`quantization.type`"),
    ("use_bnb_nested_quant", "", "`quantization.double`"),
    (
        "dataset_name",
        "datasets or pretraining_dataset",
        "`data.path` (a file, a folder, `hub:org/name`), `data.format`",
    ),
    ("dataset_config", "", "`data.subset`"),
    ("dataset_train_split", "", "`data.train_split`"),
    ("dataset_text_field", "field_messages", "`data.columns`"),
    ("eval_dataset or dataset_test_split", "test_datasets", "`data.validation`, a file"),
    ("", "val_set_size", "`data.splits.validation`"),
    ("max_length or max_seq_length", "sequence_len", "`data.max_length`"),
    ("", "excess_length_strategy", "`data.unfit: skip`"),
    ("packing", "sample_packing", "`training.packing`"),
    ("per_device_train_batch_size", "micro_batch_size", "`training.batch_size`"),
    (
        "gradient_accumulation_steps",
        "gradient_accumulation_steps",
        "`training.gradient_accumulation`",
    ),
    ("num_train_epochs", "num_epochs", "`training.epochs`"),
    ("lr_scheduler_type", "lr_scheduler", "`training.schedule`"),
    ("warmup_steps", "warmup_steps", "`training.warmup_ratio`, a share of the steps"),
    ("optim", "optimizer", "`training.optimizer`"),
    ("neftune_noise_alpha", "neftune_noise_alpha", "`training.neftune_alpha`"),
    ("save_steps", "save_steps or saves_per_epoch", "`training.eval_steps`: both at once"),
    (
        "load_best_model_at_end",
        "evals_per_epoch",
        "`training.early_stopping_patience` and `training.eval_steps`",
    ),
    (
        "assistant_only_loss or completion_only_loss",
        "train_on_inputs or roles_to_train",
        "not needed: always so for chats and prompts; see `--preview`",
    ),
    ("output_dir", "output_dir", "`output`"),
    ("report_to", "use_tensorboard or wandb_project", "`training.tensorboard`, a folder"),
    ("", "rl", "`objective`"),
    ("beta", "rl_beta", "`preference.beta`, or `reinforcement.kl_penalty`"),
    ("reward_funcs", "", "`reinforcement.reward`"),
    ("num_generations", "", "`reinforcement.generations`"),
    ("max_completion_length", "", "`reinforcement.max_new_tokens`"),
    ("push_to_hub", "hub_model_id", "the command's `--push NAME`"),
    (
        "resume_from_checkpoint",
        "resume_from_checkpoint or auto_resume_from_checkpoints",
        "the command's `--resume`",
    ),
    (
        "bf16 or fp16 or torch_dtype or dtype",
        "bf16 or fp16 or tf32",
        "not needed: bfloat16 on CUDA, float32 on a CPU",
    ),
    ("chat_template_path", "chat_template", "not needed: it is the base's own"),
    (
        "",
        "model_type or tokenizer_type or special_tokens",
        "not needed: as the base's folder has it",
    ),
    ("attn_implementation", "flash_attention or sdp_attention", "not needed: PyTorch's own"),
    ("dataset_num_proc", "dataset_prepared_path", "not needed: rows are read at each start"),
    ("logging_steps", "logging_steps", "not needed: about 60 times in the run"),
    ("save_total_limit", "save_total_limit", "not needed: the last and the best one are kept"),
)


def _names(cell: str) -> list[str]:
    return cell.split(" or ") if cell else []


_HERE = {
    name: here for trl, axolotl, here in _ROWS for cell in (trl, axolotl) for name in _names(cell)
}


def known_elsewhere(name: str) -> str | None:
    """What is said of a key of that name; None where neither has it."""
    here = _HERE.get(name)
    return f"here that is {here}" if here and not here.startswith("not needed") else here


def table() -> str:
    """In Markdown."""

    def shown(cell: str) -> str:
        return ", ".join(f"`{name}`" for name in _names(cell))

    lines = [
        f"| {shown(trl)} | {'the same' if trl == axolotl else shown(axolotl)} | {here} |"
        for trl, axolotl, here in _ROWS
    ]
    return "\n".join(["| TRL | axolotl | here |", "| --- | --- | --- |", *lines])


if __name__ == "__main__":
    print(table())
