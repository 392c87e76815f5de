"""Who is measured: Lorry's engine, PEFT's mixed batch and transformers' continuous batching, all on the same NF4 base.

Each has one verb, `generate`: a batch of prompts in, as many new tokens for each of them out, chosen greedily, no
token ending a sequence. Each keeps whatever it can keep between two calls (caches, threads, adapters in memory).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Sequence as Items
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from lorry_bases.load import Base, load_base
from lorry_bases.shapes import bytes_per_parameter, linear_shapes
from lorry_registry.errors import Aborted
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.engine import Engine
from lorry_server.engine.request import GenerationRequest, RequestOutput, SamplingParams

ALPHA = 2  # of random adapters; at PEFT's default of 8 they would outshout the base
PATIENCE_SECONDS = 600  # for one batch, on a busy machine

Prompts = list[list[int]]


class Contender(Protocol):
    """Continues each prompt by `new_tokens` tokens."""

    name: str

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts: ...


def load(path: str) -> Base:
    """The base as the server loads it. Every contender has its own, for all but one transform it in place."""
    return load_base(path)


class Folders:
    """An `AdapterSource`: every adapter is here already, in `folder/NAME`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recipe(self, digest: str) -> None:
        """Nothing here is a composition."""

    def store(self, digest: str, rank: int, write: Callable[[Path], None]) -> None:
        """For compositions alone."""

    def fetch(self, digest: str) -> Path:
        return self._folder / digest

    local = refetch = fetch


class LorryEngine:
    """The real engine, from `submit` to the sink, with the server's own settings."""

    def __init__(self, base: Base, adapters: Path, config: EngineConfig) -> None:
        self._model = base.model
        self._answers: dict[str, list[int]] = {}
        self._left = 0
        self._failed: Exception | None = None
        self._news = threading.Condition()
        self._calls = 0
        self._engine = Engine(
            base.model,
            config,
            source=Folders(adapters),
            sink=self._receive,
            linear_shapes=linear_shapes(base.model),
            context_length=base.context_length,
        )
        self._engine.start()

    def load(self, names: Items[str]) -> list[int]:
        """Brings adapters into slots; returns the bytes of each."""
        futures = [self._engine.load(name) for name in names]
        return [future.result(PATIENCE_SECONDS).size_bytes for future in futures]

    def bytes_per_parameter(self) -> float:
        """Of the quantized layers, as they are laid out for computing."""
        return bytes_per_parameter(self._model)

    def stop(self) -> None:
        self._engine.stop(drain_seconds=0)

    def merge(self, name: str) -> None:
        """Returns once the adapter is merged; another order may have taken its place by then."""
        with suppress(Aborted):
            self._engine.merge(name).result(PATIENCE_SECONDS)

    def unmerge(self) -> None:
        self._engine.unmerge().result(PATIENCE_SECONDS)

    def fingerprint(self) -> dict[str, tuple[int, bytes]]:
        """Where every weight of the base lies, and its bytes; packed ones with their scales."""
        found: dict[str, tuple[int, bytes]] = {}
        for name, tensor in [*self._model.named_parameters(), *self._model.named_buffers()]:
            state = getattr(tensor, "quant_state", None)
            parts = {name: tensor} | ({} if state is None else {f"{name} scales": state.absmax})
            for part, data in parts.items():
                raw = data.detach().contiguous().view(torch.uint8).numpy().tobytes()
                found[part] = (data.data_ptr(), raw)
        return found

    def generate(
        self,
        prompts: Prompts,
        new_tokens: int,
        adapters: Items[str | None],
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> Prompts:
        """`meanwhile` is called once all requests are submitted."""
        self._calls += 1
        sampling = SamplingParams(max_tokens=new_tokens)
        requests = [
            GenerationRequest(f"{self._calls}/{index}", tuple(prompt), sampling, adapter)
            for index, (prompt, adapter) in enumerate(zip(prompts, adapters, strict=True))
        ]
        with self._news:
            self._answers = {request.request_id: [] for request in requests}
            self._left = len(requests)
        for request in requests:
            self._engine.submit(request)
        if meanwhile is not None:
            meanwhile()
        with self._news:
            in_time = self._news.wait_for(
                lambda: self._left == 0 or self._failed, timeout=PATIENCE_SECONDS
            )
        if self._failed or not in_time:
            raise RuntimeError("the engine did not answer") from self._failed
        return list(self._answers.values())

    def _receive(self, outputs: Items[RequestOutput]) -> None:
        with self._news:
            for output in outputs:
                self._answers[output.request_id] += output.token_ids
                self._left -= output.finished
                self._failed = self._failed or output.error
            if self._left == 0 or self._failed:
                self._news.notify()


class LorryBase:
    """Lorry without adapters."""

    name = "Lorry, base only"

    def __init__(self, engine: LorryEngine) -> None:
        self._engine = engine

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        return self._engine.generate(prompts, new_tokens, [None] * len(prompts))


class LorryMixed:
    """Lorry with another adapter for every prompt."""

    name = "Lorry, an adapter each"

    def __init__(self, engine: LorryEngine, adapters: Items[str]) -> None:
        self._engine = engine
        self._adapters = adapters

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        return self._engine.generate(prompts, new_tokens, self._adapters[: len(prompts)])


class PeftMixed:
    """PEFT's own way to serve several adapters in a batch: `generate(adapter_names=…)`."""

    name = "PEFT adapter_names"

    def __init__(self, model: PeftModel, adapters: Items[str]) -> None:
        self._model = model
        self._adapters = adapters

    @torch.inference_mode()
    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        input_ids = torch.tensor(prompts)
        out = self._model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),  # else a token that also pads is left out
            adapter_names=list(self._adapters[: len(prompts)]),
            generation_config=_greedy(new_tokens),
        )
        answers: Prompts = out[:, len(prompts[0]) :].tolist()
        return answers


class ContinuousBatching:
    """transformers' own continuous batching, without adapters: what `generate_batch` does between start and stop.

    The settings are the best of those that were tried on a CPU: SDPA rather than eager paged attention, pages of 32
    tokens rather than 16, 64, 128 or 256, a token budget as large as Lorry's. The manager stays alive between two
    calls, so neither its start nor its end (which waits for a thread) is counted.
    """

    name = "transformers continuous batching"
    PAGE_SIZE = 32

    def __init__(self, base: Base, config: EngineConfig, longest: int) -> None:
        pages = -(-longest // self.PAGE_SIZE)
        self._session = base.model.continuous_batching_context_manager(
            generation_config=_greedy(longest),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=self.PAGE_SIZE,
                num_blocks=config.max_sequences * (pages + 1),
                max_batch_tokens=config.max_batched_tokens,
            ),
        )
        self._manager = self._session.__enter__()

    def stop(self) -> None:
        self._session.__exit__(None, None, None)

    def generate(self, prompts: Prompts, new_tokens: int) -> Prompts:
        ids = self._manager.add_requests(inputs=prompts, max_new_tokens=new_tokens)
        answers: dict[str, list[int]] = {}
        while len(answers) < len(prompts):
            result = self._manager.get_result(timeout=PATIENCE_SECONDS)
            if result is None or result.error:
                raise RuntimeError(f"continuous batching failed: {result and result.error}")
            if result.is_finished():
                answers[result.request_id] = result.generated_tokens
        return [answers[request_id] for request_id in ids]


def make_adapters(base: Base, folder: Path, names: Items[str], rank: int, seed: int) -> PeftModel:
    """Random adapters on every linear layer of `base`, as PEFT makes and saves them: `folder/NAME` each.

    They change a layer's output by some percent, as trained ones do. Returns the model with all of them in it.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=ALPHA,
        target_modules="all-linear",
        init_lora_weights=False,  # acts from the start, unlike PEFT's default
    )
    model: PeftModel | None = None
    for index, name in enumerate(names):
        torch.manual_seed(seed + index)
        if model is None:
            model = get_peft_model(base.model, config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    model.eval()
    model.save_pretrained(str(folder), selected_adapters=list(names))
    return model


def _greedy(new_tokens: int) -> GenerationConfig:
    # Not None, which would be filled from the base's own configuration: -1 is no token, so none ends a sequence.
    return GenerationConfig(
        max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
