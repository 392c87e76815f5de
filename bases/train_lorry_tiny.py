"""Train `lorry-tiny`, the small base that Lorry ships, on one CPU core in under an hour.

    python bases/train_lorry_tiny.py --data DIR --minutes 45  # what the clock allows
    python bases/train_lorry_tiny.py --data DIR --steps 3000  # the same number of steps anywhere
    python bases/train_lorry_tiny.py --export RUN/stage-1/checkpoint-900 --run RUN  # ship early

DIR holds the training text, in the layout its publishers give it:
`tinyshakespeare/input.txt`, `banking77/train.csv`, `restaurant8k/train.json`, `gsm8k/train.jsonl`.
Test files beside them are read only to leave their rows out.

The phases are numbered below; `main` runs them in order.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from lorry_tiny_circuit import ROPE_THETA, circuit_parameters, write_copying_circuit
from lorry_tiny_corpus import END, SEED, Document, chunks, documents, test_rows

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
SHIPPED = HERE / "lorry_bases" / "lorry-tiny"
VOCABULARY = 4096
CONTEXT = 1024
PEAK_LEARNING_RATE = 2e-3
CIRCUIT_PART = 0.2  # of that rate for the weights written by hand: at the full one they are lost
WARMUP = 0.03  # of the whole run
SAVE_EVERY_SECONDS = 180.0
HELD_OUT_EVERY = 100  # every hundredth document is kept for measuring

PAD = "<|pad|>"
SPECIALS = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>"]

# Rendering [user] with the generation prompt gives an exact prefix of rendering [user, assistant].
# `generation` marks what an assistant says, closing token included, for trainers that learn from
# answers only.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if message['role'] not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception("role is not one of system, user, assistant: " + message['role']) -}}
    {%- endif -%}
    {{- '<|' + message['role'] + '|>' -}}
    {%- if message['role'] == 'assistant' -%}
        {%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
    {%- else -%}
        {{- message['content'] + '<|end|>' -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Stage:
    """A part of the run: rows of one length, the same number of tokens in every step."""

    length: int  # tokens in a row
    rows: int  # in a step
    until: float  # part of the whole run


STAGES = (Stage(256, 8, 0.8), Stage(512, 4, 1.0))


# 1. Gather the text, and make exercises from its words.


def corpus(data_dir: Path) -> Iterable[str]:
    """Everything that the tokenizer and the model learn from, as text."""
    return (document.text() for document in documents(data_dir))


def parted(everything: list[Document]) -> tuple[list[Document], list[Document]]:
    """(to learn from, held out), in a random order that is always the same."""
    mixed = list(everything)
    Random(SEED).shuffle(mixed)
    held_out = mixed[::HELD_OUT_EVERY]
    return [d for i, d in enumerate(mixed) if i % HELD_OUT_EVERY], held_out


# 2. Train the tokenizer: byte-level BPE, so that any text comes back as it went in; digits alone.


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=SPECIALS[2:],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


# 3. Pack documents into rows. A row starts with a document, so that the start of a row looks like
# the start of a chat.

Row = dict[str, list[int]]


def tokenize(
    tokenizer: PreTrainedTokenizerFast, some: Sequence[Document]
) -> Iterator[tuple[list[int], list[int]]]:
    """(token ids, labels) of each document; label -100 is not learnt."""
    backend = tokenizer.backend_tokenizer
    for document in some:
        ids: list[int] = []
        labels: list[int] = []
        for role, said in document.messages:
            start = backend.encode(f"<|{role}|>" if role else "").ids
            body = backend.encode(said + END).ids
            learnt = role in ("", "assistant") or not document.answers_only
            ids += start + body
            labels += [-100] * len(start) + (body if learnt else [-100] * len(body))
        yield ids, labels


def pack(some: Iterable[tuple[list[int], list[int]]], length: int, pad: int) -> list[Row]:
    """Rows of exactly `length` tokens. Sixteen rows are open at a time; a document goes into the
    first that has room, and the fullest row is closed when none has. A document longer than a row
    is cut."""
    closed: list[tuple[list[int], list[int]]] = []
    opened: list[tuple[list[int], list[int]]] = []
    for ids, labels in some:
        ids, labels = ids[:length], labels[:length]
        room = next((row for row in opened if len(row[0]) + len(ids) <= length), None)
        if room is None:
            if len(opened) == 16:
                fullest = max(range(len(opened)), key=lambda i: len(opened[i][0]))
                closed.append(opened.pop(fullest))
            opened.append(room := ([], []))
        room[0].extend(ids)
        room[1].extend(labels)
    return [
        {
            "input_ids": ids + [pad] * (length - len(ids)),
            "labels": labels + [-100] * (length - len(labels)),
        }
        for ids, labels in closed + opened
    ]


def repeats(rng: Random, length: int, count: int) -> list[Row]:
    """Rows of random tokens said over and over, the first time not learnt. They keep the copying
    circuit alive while the model learns words."""
    rows: list[Row] = []
    for _ in range(count):
        said = rng.choices(range(len(SPECIALS), VOCABULARY), k=rng.randint(3, 3 * length // 8))
        ids = (said * length)[:length]
        rows.append({"input_ids": ids, "labels": [-100] * len(said) + ids[len(said) :]})
    return rows


# 4. Train.


@dataclass
class Budget:
    """How far the run is, from 0 to 1: by the clock, or by steps when a run is to be repeated."""

    minutes: float | None
    steps: int | None
    started: float = 0.0

    def progress(self, step: int) -> float:
        self.started = self.started or time.monotonic()
        done = (
            step / self.steps
            if self.steps
            else (time.monotonic() - self.started) / (60 * (self.minutes or 45))
        )
        return min(done, 1.0)

    def learning_rate(self, step: int) -> float:
        """Part of the peak: a straight warm-up, then a cosine that ends at zero."""
        done = self.progress(step)
        if done < WARMUP:
            return (done + 1e-3) / WARMUP
        return 0.5 * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP)))


def new_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    write_copying_circuit(model)
    model.generation_config = GenerationConfig(
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def train(
    model: LlamaForCausalLM,
    rows_of: Callable[[int], list[Row]],
    budget: Budget,
    run: Path,
) -> dict[str, float]:
    """Train through the stages; gives tokens seen, steps and seconds. Checkpoints appear in `run`
    on the way."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Ends a stage when it is due, and saves every few minutes."""

        def __init__(self, stage: Stage, steps_before: int) -> None:
            self.stage, self.steps_before, self.saved = stage, steps_before, time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            done = budget.progress(self.steps_before + state.global_step)
            control.should_training_stop = done >= self.stage.until
            if time.monotonic() - self.saved > SAVE_EVERY_SECONDS:
                control.should_save, self.saved = True, time.monotonic()

    written = circuit_parameters(model)
    by_hand = {id(p) for p in written}
    others = [p for p in model.parameters() if id(p) not in by_hand]
    optimizer = torch.optim.AdamW(
        [
            {"params": written, "lr": PEAK_LEARNING_RATE * CIRCUIT_PART, "weight_decay": 0.0},
            {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in others if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.95),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, budget.learning_rate)
    tokens, steps, started = 0, 0, time.monotonic()
    for number, stage in enumerate(STAGES, 1):
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(run / f"stage-{number}"),
                per_device_train_batch_size=stage.rows,
                num_train_epochs=1000,  # the clock ends it
                max_grad_norm=1.0,
                bf16=True,
                use_cpu=True,
                seed=SEED,
                logging_steps=25,
                save_strategy="no",  # the clock asks for it
                save_total_limit=2,
                save_only_model=True,
                report_to="none",
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=rows_of(stage.length),
            data_collator=default_data_collator,
            optimizers=(optimizer, schedule),
            callbacks=[Clock(stage, steps)],
        )
        trainer.train()
        steps += trainer.state.global_step
        tokens += trainer.state.global_step * stage.rows * stage.length
    return {"tokens": tokens, "steps": steps, "seconds": time.monotonic() - started}


# 5. Measure on documents that were held out.


def perplexity(model: LlamaForCausalLM, rows: Sequence[Row]) -> float:
    import torch

    total, count = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            labels = torch.tensor([row["labels"]])
            learnt = int((labels[:, 1:] != -100).sum())
            if learnt:
                loss = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
                total, count = total + float(loss) * learnt, count + learnt
    return math.exp(total / count)


def exact_answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, some: Sequence[Document]
) -> float:
    """The part of held-out exercises whose (first) answer comes out letter for letter, greedily."""
    right = 0
    for document in some:
        turns = list(itertools.takewhile(lambda m: m[0] != "assistant", document.messages))
        wanted = document.messages[len(turns)][1]
        messages = [{"role": role, "content": said} for role, said in turns]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = model.generate(**ids, max_new_tokens=128, do_sample=False)
        right += (
            tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
            == wanted
        )
    return right / len(some)


def measured(folder: Path, data: Path) -> dict[str, float]:
    """Perplexity of each kind of test row, which no document holds, and of the answers to exercises
    that were held out; how many of those answers are right."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    exercises = [d for d in parted(list(documents(data)))[1] if d.answers_only]
    kinds = {kind: tests(rows[:500]) for kind, rows in test_rows(data).items()}
    figures = {"parameters": float(model.num_parameters())}
    for kind, some in {**kinds, "answers": exercises}.items():
        rows = pack(tokenize(tokenizer, some), STAGES[-1].length, tokenizer.pad_token_id)
        figures[f"perplexity of {kind}"] = perplexity(model, rows)
    figures["exact answers"] = exact_answers(model, tokenizer, exercises[:200])
    return figures


def tests(rows: list[str]) -> list[Document]:
    """Test rows as documents, put together as the training rows are."""
    return [Document((("", group),)) for group in chunks(rows, 500)]


# 6. Ship.


def ship(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True  # training turns it off, and generation would go without
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def main(arguments: argparse.Namespace) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM, set_seed

    run: Path = arguments.run
    if arguments.export:
        model = LlamaForCausalLM.from_pretrained(arguments.export)
        ship(model, AutoTokenizer.from_pretrained(run / "tokenizer"), arguments.out)
        return

    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measured(arguments.out, arguments.data), indent=2))
        return

    set_seed(SEED)
    everything = list(documents(arguments.data))
    tokenizer = train_tokenizer(d.text() for d in everything)
    tokenizer.save_pretrained(run / "tokenizer")

    seen, held_out = parted(everything)
    tokenized = list(tokenize(tokenizer, seen))
    num_tokens = sum(len(ids) for ids, _ in tokenized)
    print(f"{len(seen)} documents, {num_tokens} tokens; {len(held_out)} held out", flush=True)

    def rows_of(length: int) -> list[Row]:
        rows = pack(tokenized, length, tokenizer.pad_token_id)
        return rows + repeats(Random(SEED), length, len(rows) // 7)

    model = new_model(tokenizer)
    figures = train(model, rows_of, Budget(arguments.minutes, arguments.steps), run)
    ship(model, tokenizer, arguments.out)

    print(json.dumps({**figures, **measured(arguments.out, arguments.data)}, indent=2))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train lorry-tiny.")
    parser.add_argument("--data", type=Path, help="folder with the training text")
    parser.add_argument(
        "--minutes", type=float, default=45.0, help="how long to train; the rate falls to 0 by then"
    )
    parser.add_argument("--steps", type=int, help="train this many steps instead, to repeat a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--run", type=Path, default=Path("lorry-tiny-run"), help="where checkpoints go"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the base goes")
    parser.add_argument("--measure", action="store_true", help="measure --out and stop")
    parser.add_argument("--export", type=Path, help="ship this checkpoint of --run and stop")
    return parser.parse_args()


if __name__ == "__main__":
    main(parsed())
