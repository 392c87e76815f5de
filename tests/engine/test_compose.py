"""Several adapters as one: the sum against float64 arithmetic and PEFT's `cat`, other methods against PEFT's own."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from lorry_bases.load import load_base
from lorry_registry.errors import FailedPrecondition, NotFound
from lorry_server.engine import loader
from lorry_server.engine.adapters.compose import compose
from lorry_server.engine.adapters.recipe import Method, Recipe, Term
from lorry_server.engine.adapters.weights import (
    AdapterWeights,
    EmbeddingUpdate,
    Head,
    LinearUpdate,
    RowsUpdate,
    VirtualTokens,
)
from lorry_server.engine.adapters.write import write_lora

from .bases import save_adapter
from .rig import Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

PROMPT = [5, 6, 7, 8, 9, 3, 4]
NEW_TOKENS = 10
MakeRig = Callable[..., Rig]


def recipe(weights: Mapping[str, float], method: Method = Method.SUM, **how: Any) -> Recipe:
    return Recipe(tuple(Term(digest, weight) for digest, weight in weights.items()), method, **how)


# Identity.


def test_a_recipe_is_known_by_what_it_says_and_by_nothing_else() -> None:
    one = recipe({"sha256:a": 0.7, "sha256:b": 0.3})
    assert one == recipe({"sha256:b": 0.3, "sha256:a": 0.7}), "a sum has no first and last"
    assert one.digest == recipe({"sha256:b": 0.3, "sha256:a": 0.7}).digest
    others = [
        recipe({"sha256:a": 0.3, "sha256:b": 0.7}),
        recipe({"sha256:a": 0.7, "sha256:c": 0.3}),
        recipe({"sha256:a": 0.7}),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3 + 1e-16}),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.SVD),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.SVD, rank=4),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.TIES, density=0.5),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.TIES, density=0.6),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.DARE_TIES, density=0.5, seed=1),
        recipe({"sha256:a": 0.7, "sha256:b": 0.3}, Method.DARE_TIES, density=0.5, seed=2),
    ]
    assert len({one.digest, *(other.digest for other in others)}) == 1 + len(others)


# The sum, layer by layer.


def spread(rows: RowsUpdate | None, num_rows: int, width: int) -> torch.Tensor:
    whole = torch.zeros(num_rows, width, dtype=torch.float64)
    if rows is not None:
        assert len(set(rows.indices.tolist())) == len(rows.indices)
        assert rows.indices.tolist() == sorted(rows.indices.tolist())
        whole[rows.indices] = rows.delta.double()
    return whole


def dense(update: LinearUpdate, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What an update adds to a layer's matrix and bias, in float64."""
    num_out, num_in = weight.shape
    matrix = spread(update.rows, num_out, num_in)
    if update.a is not None and update.b is not None:
        matrix += update.b.double().t() @ update.a.double()
    if update.in_delta is not None:
        matrix += weight * update.in_delta.double()
    if update.out_delta is not None:
        matrix += weight * update.out_delta.double()[:, None]
    if update.weight is not None:
        matrix += update.weight.double()
    bias = torch.zeros(num_out, dtype=torch.float64)
    return matrix, bias if update.bias is None else bias + update.bias.double()


def random_rows(rng: random.Random, num_rows: int, width: int, scale: float) -> RowsUpdate:
    indices = sorted(rng.sample(range(num_rows), rng.randint(1, num_rows // 2)))
    return RowsUpdate(torch.tensor(indices), scale * torch.randn(len(indices), width))


def random_update(rng: random.Random, num_in: int, num_out: int) -> LinearUpdate:
    """Any mixture of forms, at any scale."""
    rank, scale = rng.choice([1, 3, 8, 40]), 10.0 ** rng.randint(-3, 2)
    extra: dict[str, Any] = {
        "in_delta": scale * torch.randn(num_in),
        "out_delta": scale * torch.randn(num_out),
        "bias": scale * torch.randn(num_out),
        "weight": scale * torch.randn(num_out, num_in),
        "rows": random_rows(rng, num_out, num_in, scale),
    }
    extra = {name: part for name, part in extra.items() if rng.random() < 0.3}
    if rng.random() < 0.2:
        return LinearUpdate(**extra)
    return LinearUpdate(torch.randn(rank, num_in), scale * torch.randn(rank, num_out), **extra)


@pytest.mark.parametrize("seed", range(12))
def test_the_sum_is_the_sum_in_float64(seed: int) -> None:
    """Within 1e-5 relative, whatever ranks, forms and scales; also where the ranks together exceed the layer."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    shapes = {"wide": (48, 80), "narrow": (80, 48), "small": (24, 24)}
    adapters, weights = [], [rng.uniform(-2, 2) for _ in range(rng.randint(1, 5))]
    for _ in weights:
        paths = [path for path in shapes if rng.random() < 0.8]
        adapters.append(AdapterWeights({p: random_update(rng, *shapes[p]) for p in paths}))
    said = recipe({f"{i}": weight for i, weight in enumerate(weights)})
    composed = compose(said, adapters, 1000, torch.float32)
    assert composed.linears.keys() == {path for each in adapters for path in each.linears}
    for path, update in composed.linears.items():
        num_in, num_out = shapes[path]
        weight = torch.randn(num_out, num_in, dtype=torch.float64)
        terms = [
            (w, dense(each.linears[path], weight))
            for w, each in zip(weights, adapters, strict=True)
            if path in each.linears
        ]
        assert update.rank <= min(num_in, num_out), "no matrix has more rank than its smaller side"
        for index, got in enumerate(dense(update, weight)):
            exact = torch.stack([w * parts[index] for w, parts in terms]).sum(0)
            assert (got - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize("seed", range(4))
def test_embeddings_and_other_parameters_are_summed_too(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    tokens, width = 20, 12
    weights = [rng.uniform(-2, 2) for _ in range(3)]
    embeddings = [
        EmbeddingUpdate(
            torch.randn(tokens, 6),
            torch.randn(6, width),
            torch.randn(width) if rng.random() < 0.5 else None,
            torch.randn(tokens, width) if rng.random() < 0.5 else None,
            random_rows(rng, tokens, width, 1.0) if rng.random() < 0.5 else None,
        )
        for _ in weights
    ]
    norms = [torch.randn(width) for _ in weights]
    adapters = [
        AdapterWeights(embeddings={"embed": each}, parameters={"norm.weight": norm})
        for each, norm in zip(embeddings, norms, strict=True)
    ]
    said = recipe({f"{i}": weight for i, weight in enumerate(weights)})
    composed = compose(said, adapters, 8, torch.float32)
    base = torch.randn(tokens, width, dtype=torch.float64)

    def table(update: EmbeddingUpdate) -> torch.Tensor:
        whole = spread(update.rows, tokens, width)
        if update.a is not None and update.b is not None:
            whole += update.a.double() @ update.b.double()
        if update.weight is not None:
            whole += update.weight.double()
        return whole if update.out_delta is None else whole + base * update.out_delta.double()

    pairs = list(zip(weights, embeddings, norms, strict=True))
    exact = torch.stack([weight * table(update) for weight, update, _ in pairs]).sum(0)
    assert (table(composed.embeddings["embed"]) - exact).norm() <= 1e-5 * exact.norm()
    exact = torch.stack([weight * norm.double() for weight, _, norm in pairs]).sum(0)
    assert (composed.parameters["norm.weight"] - exact).norm() <= 1e-5 * exact.norm()


@pytest.mark.parametrize(
    ("part", "weights"),
    [
        ("head", AdapterWeights(head=Head("SEQ_CLS", {"score.weight": torch.ones(2, 8)}))),
        ("virtual", AdapterWeights(virtual=VirtualTokens(embeddings=torch.ones(3, 8)))),
    ],
)
def test_what_adds_to_no_weight_has_no_place_in_a_composition(
    part: str, weights: AdapterWeights
) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        compose(recipe({"a": 1.0}), [weights], 8, torch.float32)
    assert refused.value.reason == "COMPOSITION_KIND"
    assert refused.value.metadata == {"digest": "a", "part": part}


def test_a_sum_with_too_much_rank_is_refused_with_the_way_out() -> None:
    each = AdapterWeights({"layer": LinearUpdate(torch.randn(24, 64), torch.randn(24, 64))})
    with pytest.raises(FailedPrecondition) as refused:
        compose(recipe({"a": 1.0, "b": 1.0}), [each, each], 40, torch.float32)
    assert refused.value.reason == "RANK_ABOVE_CAP"
    assert refused.value.metadata == {"module": "layer", "rank": "48", "max_rank": "40"}
    assert "--max-rank 48" in refused.value.message
    assert "svd with rank 40" in refused.value.message
    svd = compose(
        recipe({"a": 1.0, "b": 1.0}, Method.SVD, rank=40), [each, each], 40, torch.float32
    )
    assert svd.rank == 40


# Served.


class Reference:
    """PEFT on a base of its own, loaded as the engine's is."""

    def __init__(self, base: Path, folders: Mapping[str, Path]) -> None:
        names = list(folders)
        plain = load_base(str(base), device="cpu").model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model: Any = PeftModel.from_pretrained(plain, folders[names[0]], names[0])
            for name in names[1:]:
                self.model.load_adapter(folders[name], name)

    @torch.inference_mode()
    def check(self, prompt: list[int], said: list[int], logprobs: list[float]) -> None:
        """Greedy output token by token, and its log-probabilities within 1e-3."""
        tokens = list(prompt)
        for token, logprob in zip(said, logprobs, strict=True):
            right = self.model(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
            assert token == right.argmax()
            assert abs(right[token].item() - logprob) < 1e-3
            tokens.append(token)


def check_served(rig: Rig, name: str, reference: Reference) -> None:
    logprobs = [each.chosen for output in rig.answers.of(name) for each in output.logprobs]
    assert rig.error(name) is None, rig.error(name)
    reference.check(PROMPT, rig.tokens(name), logprobs)


def test_a_batch_of_compositions_says_what_peft_says(
    make_rig: MakeRig, base_folder: Callable[[str], Path], adapters: dict[str, Path]
) -> None:
    """Ranks 4 to 32 in any mixture, in one batch with their own terms and the bare base, with fewer slots than that."""
    asked = [{"a": 0.7, "b": 0.3}, {"a": 0.3, "b": 0.7}, {"c": -0.5, "d": 1.25}, {"b": 2.0}]
    asked.append({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5})
    how: dict[str, Any] = {"max_tokens": NEW_TOKENS, "top_logprobs": 0}
    with make_rig(slots=3) as rig:
        digests = [rig.compose(recipe(weights)) for weights in asked]
        for digest in digests:
            rig.submit(digest, PROMPT, digest, **how)
        for digest in [*"abcd", None]:
            rig.submit(f"alone/{digest}", PROMPT, digest, **how)
        rig.wait(*digests, *(f"alone/{digest}" for digest in [*"abcd", None]))
        ranks = {info.digest: info.rank for info in rig.idle().residents}
        assert all(ranks.get(digest) in (None, 12, 48, 8, 60) for digest in digests)
        reference = Reference(base_folder("llama"), adapters)
        for weights, digest in zip(asked, digests, strict=True):
            reference.model.add_weighted_adapter(
                list(weights), list(weights.values()), digest[-8:], combination_type="cat"
            )
            reference.model.set_adapter(digest[-8:])
            check_served(rig, digest, reference)
        for digest in "abcd":
            reference.model.set_adapter(digest)
            check_served(rig, f"alone/{digest}", reference)
        said = {tuple(rig.tokens(name)) for name in rig.answers.outputs}
        assert len(said) == len(asked) + 5, "each says something of its own"


def test_prefixes_belong_to_a_composition(make_rig: MakeRig) -> None:
    """The same terms with other weights share no keys and values; the same recipe shares them in any order."""
    long = [*PROMPT] * 4
    with make_rig() as rig:
        one = rig.compose(recipe({"a": 0.7, "b": 0.3}))
        other = rig.compose(recipe({"a": 0.3, "b": 0.7}))
        rig.generate(long, one)
        assert rig.idle().prefix_hit_tokens == 0
        rig.generate(long, other)
        rig.generate(long, "a")
        assert rig.idle().prefix_hit_tokens == 0
        rig.generate(long, rig.compose(recipe({"b": 0.3, "a": 0.7})))
        assert rig.idle().prefix_hit_tokens == 24


def test_a_term_comes_and_goes_and_the_composition_stays_right(make_rig: MakeRig) -> None:
    """A composition has copies of its own: what happens to a term's slot is none of its business."""
    with make_rig(slots=2) as rig:
        digest = rig.compose(recipe({"a": 0.7, "b": 0.3}))
        right = rig.generate(PROMPT, digest)
        rig.engine.load("a").result(60)
        rig.engine.unload("a").result(60)
        rig.engine.load("b").result(60)
        assert rig.generate(PROMPT, digest) == right
        rig.engine.unload(digest).result(60)
        for each in "abcd":
            rig.generate(PROMPT, each)
        assert rig.generate(PROMPT, digest) == right
        assert rig.idle().evictions > 0


def test_a_term_that_cannot_be_had_fails_the_composition_and_nothing_else(
    make_rig: MakeRig,
) -> None:
    with make_rig() as rig:
        digest = rig.compose(recipe({"a": 0.7, "nowhere": 0.3}))
        rig.submit("composed", PROMPT, digest)
        rig.submit("alone", PROMPT, "a")
        rig.wait("composed", "alone")
        assert isinstance(rig.error("composed"), NotFound)
        assert rig.error("alone") is None


def test_too_much_rank_fails_the_request_with_the_way_out(make_rig: MakeRig) -> None:
    with make_rig(max_rank=32) as rig:
        digest = rig.compose(recipe({"c": 1.0, "d": 1.0}))
        rig.submit("composed", PROMPT, digest)
        rig.wait("composed")
        error = rig.error("composed")
        assert isinstance(error, FailedPrecondition)
        assert error.reason == "RANK_ABOVE_CAP"


def test_a_composition_as_files_says_the_same_in_peft(
    make_rig: MakeRig, base_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Ranks that differ from layer to layer, and biases of some of them."""
    with make_rig() as rig:
        digest = rig.compose(recipe({"a": 0.7, "c": -0.3}))
        rig.engine.export(digest, tmp_path).result(60)
        name = rig.submit("asked", PROMPT, digest, max_tokens=NEW_TOKENS, top_logprobs=0)
        rig.wait(name)
        check_served(rig, name, Reference(base_folder("llama"), {"composed": tmp_path}))


def test_what_no_lora_says_is_not_exported(tmp_path: Path) -> None:
    factors = LinearUpdate(torch.ones(2, 8), torch.ones(2, 8))
    for weights in (
        AdapterWeights({"layer": replace(factors, out_delta=torch.ones(8))}),
        AdapterWeights({"layer": LinearUpdate(bias=torch.ones(8))}),
        AdapterWeights({"layer": factors}, parameters={"norm.weight": torch.ones(8)}),
    ):
        with pytest.raises(FailedPrecondition) as refused:
            write_lora(weights, tmp_path)
        assert refused.value.reason == "COMPOSITION_NOT_LORA"
    assert not any(tmp_path.iterdir())


# Other methods, against PEFT.


@pytest.fixture(scope="module")
def equal_ranks(
    base_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Three adapters of one rank, each with a scaling of its own."""
    root = tmp_path_factory.mktemp("equal")
    return {
        name: save_adapter(
            base_folder("llama"),
            root / name,
            seed=seed,
            r=8,
            lora_alpha=4 << seed % 3,
            target_modules=["q_proj", "down_proj"],
        )
        for seed, name in enumerate("xyz", 50)
    }


@pytest.mark.parametrize("method", [m for m in Method if m is not Method.SUM and not m.is_random])
def test_other_methods_say_what_peft_says(
    method: Method, base_folder: Callable[[str], Path], equal_ranks: dict[str, Path]
) -> None:
    density = 0.6 if method.prunes else None
    rank = 5 if method.on_products else None
    weights = {"x": 0.7, "y": -0.3, "z": 0.9}
    base = load_base(str(base_folder("llama")), device="cpu")
    with Rig(base, equal_ranks) as rig:
        digest = rig.compose(recipe(weights, method, density=density, rank=rank))
        name = rig.submit("composed", PROMPT, digest, max_tokens=NEW_TOKENS, top_logprobs=0)
        rig.wait(name)
        reference = Reference(base_folder("llama"), equal_ranks)
        reference.model.add_weighted_adapter(
            list(weights),
            list(weights.values()),
            "composed",
            combination_type=method.value,
            density=density,
            svd_rank=rank,
        )
        reference.model.set_adapter("composed")
        check_served(rig, name, reference)


def test_what_takes_more_than_a_sum_is_computed_once(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to be computed when it was looked at, again for its slot, and again after each eviction."""
    computed: list[str] = []

    def counting(said: Recipe, *rest: Any) -> AdapterWeights:
        computed.append(said.digest)
        return compose(said, *rest)

    monkeypatch.setattr(loader, "compose", counting)
    with make_rig(slots=1) as rig:
        digest = rig.compose(recipe({"a": 0.7, "b": 0.3}, Method.SVD, rank=4))
        right = rig.generate(PROMPT, digest)
        rig.generate(PROMPT, "c")
        assert rig.generate(PROMPT, digest) == right
        (rig.source.stored[digest] / "adapter_config.json").write_text("damaged")
        rig.generate(PROMPT, "c")
        assert computed == [digest]
        assert rig.generate(PROMPT, digest) == right
        assert computed == [digest, digest]


@pytest.mark.parametrize("method", [m for m in Method if m.is_random])
def test_a_seed_decides_what_is_dropped(method: Method) -> None:
    """The same each time, another with another seed, no layer like its neighbour, whatever else draws numbers."""

    def update(seed: int) -> LinearUpdate:
        generator = torch.Generator().manual_seed(seed)
        return LinearUpdate(
            torch.randn(4, 32, generator=generator), torch.randn(4, 32, generator=generator)
        )

    adapters = [AdapterWeights({"one": update(i), "two": update(i)}) for i in range(2)]

    def made(seed: int) -> dict[str, torch.Tensor]:
        said = recipe(
            {"a": 0.5, "b": 0.5},
            method,
            density=0.5,
            seed=seed,
            rank=32 if method.on_products else None,
        )
        composed = compose(said, adapters, 64, torch.float32)
        return {path: u.b.t() @ u.a for path, u in composed.linears.items()}  # type: ignore[union-attr]

    state = torch.get_rng_state()
    first = made(1)
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers change"
    torch.rand(7)
    again, other = made(1), made(2)
    assert all(torch.equal(first[path], again[path]) for path in first)
    assert not torch.allclose(first["one"], other["one"])
    assert not torch.allclose(first["one"], first["two"])


def test_what_a_method_cannot_take_is_refused_with_the_way_out() -> None:
    def low_rank(rank: int) -> AdapterWeights:
        return AdapterWeights({"layer": LinearUpdate(torch.ones(rank, 8), torch.ones(rank, 8))})

    scaled = AdapterWeights({"layer": LinearUpdate(in_delta=torch.ones(8))})
    with pytest.raises(FailedPrecondition) as ranks:
        compose(
            recipe({"a": 1.0, "b": 1.0}, Method.TIES, density=0.5),
            [low_rank(2), low_rank(3)],
            64,
            torch.float32,
        )
    assert ranks.value.reason == "COMPOSITION_RANKS_DIFFER"
    assert "ties_svd" in ranks.value.message
    with pytest.raises(FailedPrecondition) as kind:
        compose(recipe({"a": 1.0, "b": 1.0}, Method.SVD), [low_rank(2), scaled], 64, torch.float32)
    assert kind.value.reason == "COMPOSITION_METHOD_KIND"
