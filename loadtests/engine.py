"""How fast is the engine? One table of ratios from one run: Lorry against PEFT and transformers on the same NF4 bases.

    python loadtests/engine.py [--quick] [--threads N] [--rounds N] [--json FILE]

What is measured: the time from handing over a batch of prompts until the last token of the batch, prefill included,
for all sides alike; only generated tokens are counted. Everything is greedy and runs to the full length. Adapters
(random, on every linear layer) are in memory beforehand, and every request has its own. "same text" counts the
sequences in which both sides chose the same tokens.

How: two contenders at a time, one after the other on the same fresh random prompts, so that nobody finds a prefix in a
cache and a busy machine slows both; who goes first alternates. A ratio is the median over the rounds of each
round's own ratio. "by CPU" is the same with processor seconds instead of wall time, which neighbours disturb less.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report

if TYPE_CHECKING:
    from contenders import Contender, Prompts

TARGETS = {  # what the design promises on a CPU, at a batch size
    "adapters ÷ PEFT": {32: 6.0},
    "base ÷ continuous batching": {1: 1.0, 8: 2.0, 32: 2.0},
    "adapters ÷ base": {8: 0.8, 32: 0.8},
}
BATCHES = {
    "adapters ÷ PEFT": (8, 32),
    "base ÷ continuous batching": (1, 8, 32),
    "adapters ÷ base": (8, 32),
}


@dataclass(frozen=True)
class Settings:
    """One run. `random_base` is a Llama of about 0.1 B parameters."""

    seed: int = 0
    threads: int = 1
    rounds: int = 3
    prompt_tokens: int = 32
    new_tokens: int = 64
    rank: int = 16
    adapters: int = 32  # and the largest batch
    bases: tuple[str, ...] = ("lorry-tiny", "random 0.1 B")
    random_base: dict[str, int] = field(
        default_factory=lambda: {
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "intermediate_size": 2048,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "vocab_size": 8192,
            "max_position_embeddings": 1024,
        }
    )


QUICK = Settings(
    rounds=1,
    prompt_tokens=8,
    new_tokens=4,
    adapters=8,
    bases=("lorry-tiny", "random, very small"),
    random_base={
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "intermediate_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 1024,
    },
)


@dataclass
class Comparison:
    """Two contenders at one batch size, and what each round brought."""

    what: str
    batch: int
    first: Contender
    second: Contender
    same_sequences: int | None  # None: they need not say the same
    seconds: list[tuple[float, float]] = field(default_factory=list)
    cpu_seconds: list[tuple[float, float]] = field(default_factory=list)

    def run(self, prompts: Prompts, new_tokens: int, *, swapped: bool) -> None:
        pair = (self.first, self.second)
        taken = [(0.0, 0.0), (0.0, 0.0)]
        answers: list[Prompts] = [[], []]
        for index in (1, 0) if swapped else (0, 1):
            wall, cpu = time.perf_counter(), time.process_time()
            answers[index] = pair[index].generate(prompts, new_tokens)
            taken[index] = (time.perf_counter() - wall, time.process_time() - cpu)
            if [len(answer) for answer in answers[index]] != [new_tokens] * len(prompts):
                raise RuntimeError(f"{pair[index].name} did not generate {new_tokens} tokens each")
        self.seconds.append((taken[0][0], taken[1][0]))
        self.cpu_seconds.append((taken[0][1], taken[1][1]))
        if self.same_sequences is not None:
            self.same_sequences += sum(a == b for a, b in zip(*answers, strict=True))

    def result(self, base: str, new_tokens: int) -> dict[str, Any]:
        ratios = sorted(second / first for first, second in self.seconds)
        tokens = self.batch * new_tokens
        target = TARGETS[self.what].get(self.batch)
        ratio = statistics.median(ratios)
        return {
            "base": base,
            "what": self.what,
            "batch": self.batch,
            "contenders": [self.first.name, self.second.name],
            "tokens_per_second": [
                statistics.median(tokens / taken for taken in side)
                for side in zip(*self.seconds, strict=True)
            ],
            "ratio": ratio,
            "ratios": ratios,
            "ratio_by_cpu": statistics.median(second / first for first, second in self.cpu_seconds),
            "target": target,
            "met": None if target is None else ratio >= target,
            "same_sequences": self.same_sequences,
            "sequences": self.batch * len(self.seconds),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    settings = _settings(options)
    os.environ["OMP_NUM_THREADS"] = str(settings.threads)  # before torch and bitsandbytes read it
    _be_quiet()
    neighbours = report.Neighbours()
    ratios: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lorry-loadtest-") as scratch:
        for base in settings.bases:
            with _contest(base, settings, Path(scratch) / base.replace(" ", "-")) as contest:
                comparisons, used = contest
                _run(comparisons, settings, base)
                ratios += [c.result(base, settings.new_tokens) for c in comparisons]
                memory.append(used)
    machine = neighbours.report()
    print(_ratio_table(ratios), "", _memory_table(memory), "", sep="\n")
    print(
        f"{'Quick, so the times mean nothing: ' if options.quick else ''}"
        f"{settings.prompt_tokens} prompt + {settings.new_tokens} new tokens, rank {settings.rank}, "
        f"{settings.rounds} round(s), {settings.threads} thread(s), seed {settings.seed}; load average "
        f"{machine['load_average_before']} → {machine['load_average_after']}, stolen {machine['stolen_share']:.1%}"
    )
    if options.json:
        from lorry_server.engine.config import EngineConfig

        result = {
            "config": asdict(settings),
            "engine": asdict(EngineConfig()),
            "seed": settings.seed,
            "versions": report.versions(),
            "hardware": report.hardware(),
            "neighbours": machine,
            "ratios": ratios,
            "memory": memory,
        }
        report.write_json(options.json, result)
    return 0


def _run(comparisons: list[Comparison], settings: Settings, base: str) -> None:
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    vocab_size = 512  # every base has as many tokens
    for turn in range(settings.rounds):
        for comparison in comparisons:
            print(f"\r{base}: round {turn + 1}/{settings.rounds}", end=" ", file=sys.stderr)
            size = (comparison.batch, settings.prompt_tokens)
            prompts = torch.randint(vocab_size, size, generator=generator).tolist()
            comparison.run(prompts, settings.new_tokens, swapped=turn % 2 == 1)
    print(file=sys.stderr)


@contextmanager
def _contest(
    base: str, settings: Settings, scratch: Path
) -> Iterator[tuple[list[Comparison], dict[str, Any]]]:
    """Sets the contenders up on their own copies of a base; memory is taken while Lorry is alone."""
    from contenders import (
        ContinuousBatching,
        LorryBase,
        LorryEngine,
        LorryMixed,
        PeftMixed,
        load,
        make_adapters,
    )

    from lorry_server.engine.config import EngineConfig

    path = base if base == "lorry-tiny" else str(_random_base(settings, scratch / "base"))
    names = [f"adapter-{index:02}" for index in range(settings.adapters)]
    config = EngineConfig()
    peft_model = make_adapters(load(path), scratch, names, settings.rank, settings.seed)
    with ExitStack() as stack:
        held = [report.memory_bytes()]
        engine = LorryEngine(load(path), scratch, config)
        stack.callback(engine.stop)
        lorry_base, lorry_mixed = LorryBase(engine), LorryMixed(engine, names)
        warm_up = [[1 + i] * settings.prompt_tokens for i in range(len(names))]
        lorry_base.generate(warm_up, 2)
        held.append(report.memory_bytes())
        sizes = engine.load(names)
        held.append(report.memory_bytes())
        memory = {
            "base": base,
            "bytes_per_parameter": engine.bytes_per_parameter(),
            "bytes_per_adapter": statistics.median(sizes),
            "held_bytes_base_and_engine": held[1] - held[0],
            "held_bytes_per_adapter": (held[2] - held[1]) / len(names),
        }
        peft = PeftMixed(peft_model, names)
        longest = settings.prompt_tokens + settings.new_tokens
        batching = ContinuousBatching(load(path), config, longest)
        stack.callback(batching.stop)
        for contender in (lorry_mixed, peft, batching):
            contender.generate(warm_up, 2)
        pairs: list[tuple[str, Contender, Contender]] = [
            ("adapters ÷ PEFT", lorry_mixed, peft),
            ("base ÷ continuous batching", lorry_base, batching),
            ("adapters ÷ base", lorry_mixed, lorry_base),
        ]
        yield (
            [
                Comparison(what, batch, first, second, None if second is lorry_base else 0)
                for what, first, second in pairs
                for batch in BATCHES[what]
                if batch <= len(names)
            ],
            memory,
        )
        memory["peak_rss_bytes_all_contenders"] = report.memory_bytes("VmHWM")


def _random_base(settings: Settings, folder: Path) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(settings.seed)
    config = LlamaConfig(tie_word_embeddings=True, **settings.random_base)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _ratio_table(ratios: list[dict[str, Any]]) -> str:
    header = (
        "base",
        "what",
        "batch",
        "tokens/s",
        "theirs",
        "ratio",
        "range",
        "by CPU",
        "target",
        "met",
        "same text",
    )
    rows = []
    for row in ratios:
        mine, theirs = row["tokens_per_second"]
        same = row["same_sequences"]
        rows.append(
            (
                row["base"],
                row["what"],
                str(row["batch"]),
                f"{mine:.0f}",
                f"{theirs:.0f}",
                f"{row['ratio']:.2f}",
                f"{row['ratios'][0]:.2f}–{row['ratios'][-1]:.2f}",
                f"{row['ratio_by_cpu']:.2f}",
                "–" if row["target"] is None else f"≥ {row['target']:g}",
                {None: "–", True: "yes", False: "no"}[row["met"]],
                "–" if same is None else f"{same}/{row['sequences']}",
            )
        )
    return report.markdown(header, rows)


def _memory_table(memory: list[dict[str, Any]]) -> str:
    header = (
        "base",
        "bytes/parameter (4-bit layers)",
        "MB/adapter",
        "as the process grew",
        "MB, base and engine",
    )
    return report.markdown(
        header,
        [
            (
                row["base"],
                f"{row['bytes_per_parameter']:.3f} (≤ 0.6)",
                f"{row['bytes_per_adapter'] / 1e6:.2f}",
                f"{row['held_bytes_per_adapter'] / 1e6:.2f}",
                f"{row['held_bytes_base_and_engine'] / 1e6:.0f}",
            )
            for row in memory
        ],
    )


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: its times mean nothing")
    parser.add_argument("--threads", type=int, help="of every contender's arithmetic (1)")
    parser.add_argument("--rounds", type=int, help="of each comparison (3)")
    parser.add_argument("--new-tokens", type=int, help="generated for each prompt (64)")
    parser.add_argument("--prompt-tokens", type=int, help="of each prompt (32)")
    parser.add_argument("--seed", type=int, help="of weights, adapters and prompts (0)")
    parser.add_argument("--base", action="append", dest="bases", help="only this one of the bases")
    parser.add_argument("--json", type=Path, metavar="FILE", help="everything that was measured")
    return parser.parse_args(arguments)


def _settings(options: argparse.Namespace) -> Settings:
    defaults = QUICK if options.quick else Settings()
    given = {
        name: value
        for name in ("threads", "rounds", "new_tokens", "prompt_tokens", "seed", "bases")
        if (value := getattr(options, name)) is not None
    }
    if unknown := set(given.get("bases", ())) - set(defaults.bases):
        raise SystemExit(f"--base takes {' or '.join(map(repr, defaults.bases))}, not {unknown}")
    return Settings(**{**asdict(defaults), **given})


def _be_quiet() -> None:
    import logging

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())
