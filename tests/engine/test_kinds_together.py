"""Kinds of adapters composed with one another, and each of them merged, on the NF4 base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lorry_bases.load import load_base
from lorry_server.engine.adapters.read import read_weights
from lorry_server.engine.adapters.recipe import Recipe, Term
from lorry_server.engine.adapters.weights import AdapterWeights

from .bases import CONFIGS, random_model
from .kinds import recipes
from .rig import PATIENCE, Rig
from .test_compose import dense, spread
from .test_kinds import make_adapter

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

BASE = "llama"
PROMPT = [5, 6, 7, 8, 9, 3, 4]
NEW_TOKENS = 8
LOG_PROB = 1e-3
LEFT_OUT = ("prompt", "prefix", "cpt", "p-tuning", "cartridge")  # they add to no weight


def weights_of(rig: Rig, folders: Mapping[str, Path]) -> dict[str, AdapterWeights]:
    base = rig.engine._runner.base
    return {name: read_weights(folder, base, torch.float32) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def folders(base_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One adapter of each kind that adds to weights."""
    root = tmp_path_factory.mktemp("kinds")
    chosen = {
        name: config
        for name, config in recipes(BASE).items()
        if not name.startswith(LEFT_OUT) and config.task_type != "SEQ_CLS"
    }
    return {
        name: make_adapter(base_folder(BASE), root / name, config, seed)
        for seed, (name, config) in enumerate(chosen.items())
    }


def summed(rig: Rig, terms: list[tuple[AdapterWeights, float]]) -> Any:
    """The base, dequantized, with the weighted sum in its weights: all of it in float64."""
    model: Any = random_model(CONFIGS[BASE]).double()
    base = rig.engine._runner.base
    for layer in base.entity.modules:
        module = model.get_submodule(layer.path)
        weight = base.weight(layer.path).double()
        bias = base.bias(layer.path)
        total, shift = weight.clone(), torch.zeros(len(weight), dtype=torch.float64)
        for adapter, share in terms:
            if layer.path in adapter.linears:
                matrix, added = dense(adapter.linears[layer.path], weight)
                total, shift = total + share * matrix, shift + share * added
        module.weight = torch.nn.Parameter(total)
        if bias is not None or shift.any():
            module.bias = torch.nn.Parameter(shift if bias is None else shift + bias.double())
    for path in {path for adapter, _ in terms for path in adapter.embeddings}:
        table = base.parameter(f"{path}.weight").double()
        total = table.clone()
        for adapter, share in terms:
            update = adapter.embeddings.get(path)
            if update is None:
                continue
            added = spread(update.rows, *table.shape)
            if update.a is not None and update.b is not None:
                added += update.a.double() @ update.b.double()
            if update.weight is not None:
                added += update.weight.double()
            if update.out_delta is not None:
                added += table * update.out_delta.double()
            total += share * added
        model.get_submodule(path).weight = torch.nn.Parameter(total)
    for name in {name for adapter, _ in terms for name in adapter.parameters}:
        parameter = model.get_parameter(name)
        for adapter, share in terms:
            if name in adapter.parameters:
                parameter.data += share * adapter.parameters[name].double()
    return model


@torch.inference_mode()
def check(model: Any, tokens: list[int], logprobs: list[float]) -> None:
    text = list(PROMPT)
    for token, logprob in zip(tokens, logprobs, strict=True):
        right = model(input_ids=torch.tensor([text])).logits[0, -1].log_softmax(-1)
        assert right[token] >= right.max() - 1e-4
        assert abs(right[token].item() - logprob) < LOG_PROB
        text.append(token)


def asked(rig: Rig, names: Mapping[str, str | None]) -> dict[str, tuple[list[int], list[float]]]:
    """What everybody says in one batch, with log-probabilities."""
    for name, digest in names.items():
        rig.submit(name, PROMPT, digest, max_tokens=NEW_TOKENS, top_logprobs=0)
    rig.wait(*names)
    said: dict[str, tuple[list[int], list[float]]] = {}
    for name in names:
        assert rig.error(name) is None, (name, rig.error(name))
        logprobs = [each.chosen for output in rig.answers.of(name) for each in output.logprobs]
        said[name] = rig.tokens(name), logprobs
    return said


def test_a_sum_over_all_kinds_says_what_float64_says(
    base_folder: Any, folders: dict[str, Path]
) -> None:
    """Each kind with each of its neighbours, and all at once; in one batch."""
    names = list(folders)
    mixtures = [
        {name: 0.7, names[(index + 1) % len(names)]: -0.4} for index, name in enumerate(names)
    ]
    mixtures.append(dict.fromkeys(names, 0.15))
    base = load_base(str(base_folder(BASE)), device="cpu")
    with Rig(base, folders, slots=4, max_rank=128) as rig:
        read = weights_of(rig, folders)
        digests = [
            rig.compose(Recipe(tuple(Term(name, share) for name, share in mixture.items())))
            for mixture in mixtures
        ]
        said = asked(rig, {digest: digest for digest in digests})
        for mixture, digest in zip(mixtures, digests, strict=True):
            model = summed(rig, [(read[name], share) for name, share in mixture.items()])
            check(model, *said[digest])


def test_every_kind_is_merged_and_everybody_says_the_same(
    base_folder: Any, folders: dict[str, Path]
) -> None:
    """All kinds and the bare base in one batch, with each kind merged in its turn."""
    base = load_base(str(base_folder(BASE)), device="cpu")
    everybody: dict[str, str | None] = {**{name: name for name in folders}, "base": None}
    with Rig(base, folders, slots=len(folders), max_sequences=32, max_waiting=500) as rig:
        right = asked(rig, everybody)
        for merged, weights in weights_of(rig, folders).items():
            if not weights.linears:
                assert rig.engine.merge(merged).exception(PATIENCE) is not None
                continue
            rig.engine.merge(merged).result(PATIENCE)
            said = asked(rig, {f"{merged}/{name}": who for name, who in everybody.items()})
            for name in everybody:
                tokens, logprobs = said[f"{merged}/{name}"]
                assert tokens == right[name][0], (merged, name)
                off = (torch.tensor(logprobs) - torch.tensor(right[name][1])).abs().max()
                assert off < LOG_PROB, (merged, name)
