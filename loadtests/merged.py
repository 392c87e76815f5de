"""What merged mode costs and gains, and whether it leaves the base alone: one table of ratios from one run, and cycles.

    python loadtests/merged.py [--rounds N] [--cycles N] [--base NAME]

Throughput: a batch of 32 requests, of which a share is for one adapter and the rest in equal parts for the bare base
and for others, by turns unmerged and with that adapter merged, prefill included. A ratio is the median over the rounds
of each round's own ratio, in processor seconds. The last line has the constants of `engine/automerge.py`.

Cycles: random merges, unmerges and switches while requests for all adapters and the base run. Every answer must be the
one that was given before the first cycle, and at the end every byte of the base must be where and what it was.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contenders import LorryEngine

BATCH, PROMPT_TOKENS, NEW_TOKENS, RANK, ADAPTERS = 32, 16, 32, 16, 8
SHARES = (1.0, 0.75, 0.5, 0.25)


def batch_for(share: float, names: list[str]) -> list[str | None]:
    """Whom each request of a batch is for; the first name is the one that is merged."""
    own = round(BATCH * share)
    rest = [None if i % 2 else names[1 + i // 2 % (len(names) - 1)] for i in range(BATCH - own)]
    return [*names[:1] * own, *rest]


def measure(engine: LorryEngine, names: list[str], rounds: int, vocab_size: int) -> None:
    rng = random.Random(0)

    def seconds(adapters: list[str | None]) -> float:
        prompts = [[rng.randrange(vocab_size) for _ in range(PROMPT_TOKENS)] for _ in adapters]
        began = time.process_time()
        engine.generate(prompts, NEW_TOKENS, adapters)
        return time.process_time() - began

    everybody = {share: batch_for(share, names) for share in SHARES}
    taken: dict[tuple[str, float], list[float]] = {}
    bare: list[float] = []
    making: list[float] = []
    for _ in range(rounds + 1):
        bare.append(seconds([None] * BATCH))
        for share, adapters in everybody.items():
            taken.setdefault(("unmerged", share), []).append(seconds(adapters))
        began = time.process_time()
        engine.merge(names[0])
        making.append(time.process_time() - began)
        for share, adapters in everybody.items():
            taken.setdefault(("merged", share), []).append(seconds(adapters))
        engine.unmerge()
    print("| of the merged adapter | merged ÷ unmerged | unmerged ÷ base | merged ÷ base |")
    print("| ---: | ---: | ---: | ---: |")
    gains: dict[float, float] = {}
    for share in SHARES:  # the first round warms up
        merged, unmerged = taken["merged", share][1:], taken["unmerged", share][1:]
        faster = ratio(unmerged, merged)
        gains[share] = 1 - 1 / faster
        beside, folded = ratio(bare[1:], unmerged), ratio(bare[1:], merged)
        print(f"| {share:.0%} | {faster:.2f} | {beside:.2f} | {folded:.2f} |")
    token = statistics.median(taken["unmerged", 1.0][1:]) / (BATCH * (PROMPT_TOKENS + NEW_TOKENS))
    other = (gains[0.25] - 0.25 * gains[1.0]) / 0.75
    print(
        f"\nthroughput in tokens per processor second, {BATCH} requests, {PROMPT_TOKENS} + {NEW_TOKENS} tokens, rank "
        f"{RANK}, {rounds} rounds; a merge takes {statistics.median(making[1:]):.3f} s of a processor"
    )
    print(
        f"SAVED = {gains[1.0]:.2f} of a token's time for each of its own, {other:.2f} for each of another; "
        f"MERGE_TOKENS = {statistics.median(making[1:]) / token:.0f}"
    )


def ratio(slow: list[float], fast: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def cycle(engine: LorryEngine, names: list[str], cycles: int, vocab_size: int) -> None:
    rng = random.Random(1)
    asked = [
        ([rng.randrange(vocab_size) for _ in range(rng.randint(3, 24))], who)
        for who in [None, *names]
        for _ in range(2)
    ]
    before = engine.fingerprint()
    right = engine.generate([prompt for prompt, _ in asked], 12, [who for _, who in asked])
    counts = {"merge": 0, "unmerge": 0}
    answers = wrong = 0
    done = 0
    began = time.monotonic()
    while done < cycles:
        chosen = [rng.randrange(len(asked)) for _ in range(8)]

        def disturb() -> None:
            nonlocal done
            for _ in range(rng.randint(1, 4)):
                if rng.random() < 0.3:
                    engine.unmerge()
                    counts["unmerge"] += 1
                else:
                    engine.merge(rng.choice(names))
                    counts["merge"] += 1
                done += 1

        said = engine.generate(
            [asked[i][0] for i in chosen], 12, [asked[i][1] for i in chosen], meanwhile=disturb
        )
        answers += len(said)
        wrong += sum(text != right[i] for text, i in zip(said, chosen, strict=True))
    engine.unmerge()
    same = engine.fingerprint() == before
    print(
        f"\n{done} cycles ({counts['merge']} merges and switches, {counts['unmerge']} unmerges) in "
        f"{time.monotonic() - began:.0f} s under traffic: {answers} answers, {wrong} other than before; "
        f"the base is {'bit for bit what it was' if same else 'CHANGED'}"
    )
    if wrong or not same:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="of the throughput; 0 for none")
    parser.add_argument("--cycles", type=int, default=1000, help="0 for none")
    parser.add_argument("--base", default="lorry-tiny", help="a shipped base or a folder")
    chosen = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from contenders import LorryEngine, load, make_adapters

    from lorry_server.engine.config import EngineConfig

    names = [f"adapter-{number}" for number in range(ADAPTERS)]
    with tempfile.TemporaryDirectory() as folder:
        make_adapters(load(chosen.base), Path(folder), names, RANK, 0)
        base = load(chosen.base)
        vocab_size = base.model.config.get_text_config().vocab_size
        engine = LorryEngine(base, Path(folder), EngineConfig(max_waiting=512))
        try:
            engine.load(names)
            if chosen.rounds:
                measure(engine, names, chosen.rounds, vocab_size)
            if chosen.cycles:
                cycle(engine, names, chosen.cycles, vocab_size)
        finally:
            engine.stop()


if __name__ == "__main__":
    main()
