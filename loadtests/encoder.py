"""A small encoder for the figures of docs/training-results.md: BERT of 4 layers × 256, by masked language modelling.

    python loadtests/encoder.py DIR --data ../shared/data [--steps 1800]
    python loadtests/encoder.py DIR --data ../shared/data --steps 0     # the same, its weights left at random

The texts are the training rows of banking77 and restaurant8k, twice, and the first nine tenths of tiny Shakespeare; on
the rest of it the loss is measured. No label is read, and no test row. The weights are not shipped: Lorry ships no
encoder.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from pathlib import Path
from typing import Any

from datasets import Dataset
from tokenizers import BertWordPieceTokenizer
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizerFast,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    set_seed,
)

VOCABULARY = 4096
LONGEST = 128  # tokens
MASKED = 0.2  # share of the tokens
LINES = 4  # of Shakespeare's, that make one text


def texts(data: Path) -> tuple[list[str], list[str]]:
    """To learn from, and held out."""
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        found = [row["text"] for row in csv.DictReader(file)]
    rows = json.loads((data / "restaurant8k" / "train.json").read_text(encoding="utf-8"))
    found += [row["userInput"]["text"] for row in rows]
    plays = (data / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    lines = [line for line in plays.splitlines() if line.strip()]
    pieces = [" ".join(lines[at : at + LINES]) for at in range(0, len(lines), LINES)]
    learnt = len(pieces) * 9 // 10
    return 2 * found + pieces[:learnt], pieces[learnt:]


def tokenizer_of(found: list[str], folder: Path) -> BertTokenizerFast:
    """A word-piece tokenizer over the texts, in BERT's layout."""
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(found, vocab_size=VOCABULARY, show_progress=False)
    learner.save_model(str(folder))
    made = BertTokenizerFast.from_pretrained(folder, model_max_length=LONGEST)
    made.save_pretrained(folder)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the encoder is written")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1800, help="of 64 texts; 0: random weights")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True)
    set_seed(0)
    learnt, held_out = texts(asked.data)
    tokenizer = tokenizer_of(learnt, asked.folder)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=LONGEST,
            pad_token_id=tokenizer.pad_token_id,
            # Smaller weights and dropout, as BERT has them, keep so short a run at what the words' frequencies tell.
            initializer_range=0.05,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    if asked.steps:
        print(json.dumps(pretrain(model, tokenizer, learnt, held_out, asked.steps)))
    model.save_pretrained(asked.folder)


def pretrain(
    model: BertForMaskedLM,
    tokenizer: BertTokenizerFast,
    learnt: list[str],
    held_out: list[str],
    steps: int,
) -> dict[str, float]:
    """In place; tells the perplexity of masked tokens of held-out text."""

    def rows(found: list[str]) -> Dataset:
        read: Any = tokenizer(found, truncation=True, return_token_type_ids=False)
        return Dataset.from_dict(dict(read))

    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir="unused",
            max_steps=steps,
            per_device_train_batch_size=64,
            learning_rate=4e-4,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            weight_decay=0.01,
            train_sampling_strategy="group_by_length",
            use_cpu=True,
            bf16=True,  # on a CPU an autocast: the weights stay in float32
            save_strategy="no",
            logging_steps=100,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows(learnt),
        eval_dataset=rows(held_out),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED),
    )
    trained = trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    return {
        "seconds": trained.metrics["train_runtime"],
        "train_loss": trained.training_loss,
        "held_out_perplexity": math.exp(loss),
    }


if __name__ == "__main__":
    main()
