"""Every method's example recipe on lorry-tiny, a few steps of it: it learns, and PEFT alone loads what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lorry_bases import resolve
from lorry_bases.load import Base
from lorry_trainer import examples
from lorry_trainer.bases import Bases
from lorry_trainer.data import choose, load
from lorry_trainer.errors import RecipeError
from lorry_trainer.generation import pad_id
from lorry_trainer.likelihood import answer_losses, mean_loss
from lorry_trainer.methods import METHODS
from lorry_trainer.methods.bottleneck import load_bottleneck
from lorry_trainer.methods.svd import truncate
from lorry_trainer.objectives import find
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Silent
from lorry_trainer.recipe import HELD, SECTIONS, Recipe
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.run import Result, run

FOLDER = Path(examples.__file__).parent / "methods"
PARAMETERS_AS_TRAINED = {"rslora": 64, "pissa": 32, "full": 32}  # ranks in the file


@pytest.fixture(scope="module")
def bases() -> Bases:
    return Bases()


def short(method: str, **training: Any) -> Recipe:
    """The example's own settings for as few steps and rows as show an effect."""
    recipe = read_recipe(FOLDER / f"{method}.yaml")
    values = recipe.model_dump()
    values["training"] |= {"max_steps": 5, "batch_size": 4, "warmup_ratio": 0.0} | training
    values["data"] |= {"max_rows": 40, "splits": {"validation": 0, "test": 0.2}}
    values["evaluation"] |= {"max_rows": 8, "max_new_tokens": 1}
    return Recipe.model_validate(values)


def go(recipe: Recipe, output: Path, bases: Bases) -> Result:
    return run(recipe, name=recipe.method, folder=FOLDER, output=output, bases=bases)


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def base_of(recipe: Recipe, bases: Bases) -> Base:
    return bases(recipe, find("sft"), load(recipe.data, FOLDER, 0))


def loss_of(model: Any, base: Base, recipe: Recipe) -> float:
    test = choose(load(recipe.data, FOLDER, 0).test, recipe.evaluation.max_rows, 0)
    pad = pad_id(base.tokenizer, base.eos_token_ids)
    return mean_loss(answer_losses(model.eval(), base.tokenizer, test, pad, 8))


def test_there_is_an_example_of_every_method() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} >= set(METHODS)
    assert set(HELD) == set(METHODS)
    assert {m for methods in SECTIONS.values() for m in methods} <= set(METHODS)


@pytest.mark.parametrize("method", sorted(p.stem for p in FOLDER.glob("*.yaml")))
def test_a_method_learns_and_peft_alone_loads_what_it_wrote(
    method: str, bases: Bases, tmp_path: Path
) -> None:
    recipe = short(method)
    result = go(recipe, tmp_path / "out", bases)
    metrics = result.metrics
    assert metrics["test_loss"] < 0.85 * metrics["base_test_loss"]

    from peft import PeftModel

    base = base_of(recipe, bases)
    assert loss_of(base.model, base, recipe) == pytest.approx(metrics["base_test_loss"], abs=1e-6)
    # PEFT has no bottleneck adapters.
    loads = load_bottleneck if method == "bottleneck" else PeftModel.from_pretrained
    card = (result.folder / "README.md").read_text().split("```python")[1].split("```")[0]
    used = executed(card.replace(f'"{method}"', repr(str(result.folder))))
    assert loss_of(used["model"], base, recipe) < 0.85 * metrics["base_test_loss"]
    loaded = loads(base.model, result.folder)
    try:
        assert loss_of(loaded, base, recipe) == pytest.approx(metrics["test_loss"], abs=1e-4)
        config = json.loads((result.folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "lorry-tiny"
        assert str(Path.home()) not in json.dumps(config)
        assert METHODS[method].published_rank(recipe) == config.get("r", 0)
        if rank := PARAMETERS_AS_TRAINED.get(method):
            assert config["r"] == rank
            assert config.get("init_lora_weights", True) is True
        assert config.get("use_dora", False) == (method == "dora")
        assert config.get("use_rslora", False) == (method == "rslora")
    finally:
        METHODS[method].detach(base)


def whole(method: str, *names: str) -> Recipe:
    recipe = short(method)
    lora = recipe.lora.model_copy(update={"modules_to_save": names})
    return recipe.model_copy(update={"lora": lora})


@pytest.mark.parametrize("name", ["embed_tokens", "norm"])
def test_a_module_that_is_learnt_whole_is_published_beside_the_factors(
    name: str, bases: Bases, tmp_path: Path
) -> None:
    from peft import PeftModel

    recipe = whole("qlora", name)
    metrics = go(recipe, tmp_path / "out", bases).metrics
    base = base_of(recipe, bases)
    # Once the copies stayed in the base that the next recipe was given.
    assert loss_of(base.model, base, recipe) == pytest.approx(metrics["base_test_loss"], abs=1e-6)
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    saved = {n.removeprefix("base_model.model."): w for n, w in weights.items() if "lora" not in n}
    held = dict(base.model.named_parameters(remove_duplicate=False))
    assert all(not torch.equal(w, held[n].float()) for n, w in saved.items())
    if name == "embed_tokens":  # which is lorry-tiny's head as well
        assert torch.equal(saved["lm_head.weight"], saved["model.embed_tokens.weight"])
    loaded = PeftModel.from_pretrained(base.model, tmp_path / "out")
    try:
        assert loss_of(loaded, base, recipe) == pytest.approx(metrics["test_loss"], abs=1e-4)
    finally:
        METHODS["qlora"].detach(base)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("embedings", "it has embed_tokens, "),
        ("q_proj", "has linear layers"),
        ("mlp", "has linear"),
    ],
)
def test_a_module_that_cannot_be_learnt_whole(
    name: str, complaint: str, bases: Bases, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=f"{name}.*{complaint}"):
        go(whole("qlora", name), tmp_path / "out", bases)


def test_loraplus_learns_a_whole_embedding_at_the_recipe_s_rate(
    bases: Bases, tmp_path: Path
) -> None:
    """PEFT's own is 1e-6, which is none."""
    from lorry_trainer.train import make_trainer

    recipe = whole("lora_plus", "embed_tokens")
    run_ = prepare(recipe, "x", prepare_data(recipe, FOLDER, Silent()), bases)
    trainer = make_trainer(run_, str(tmp_path), watched=False)
    optimizer = METHODS["lora_plus"].optimizer(trainer, run_.recipe)
    assert optimizer is not None
    rates = {p.shape: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates[trainer.model.get_input_embeddings().weight.shape] == 5e-4
    METHODS["lora_plus"].detach(run_.base)


def test_loraplus_is_faster_in_b_alone(bases: Bases, tmp_path: Path) -> None:
    """PEFT takes every vector for one of B's: a norm that is learnt whole had eight times the recipe's rate."""
    from lorry_trainer.train import make_trainer

    recipe = whole("lora_plus", "norm")
    run_ = prepare(recipe, "x", prepare_data(recipe, FOLDER, Silent()), bases)
    trainer = make_trainer(run_, str(tmp_path), watched=False)
    optimizer = METHODS["lora_plus"].optimizer(trainer, run_.recipe)
    assert optimizer is not None
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert rates.keys() == {id(p) for p in named.values()}
    assert {rates[id(p)] for n, p in named.items() if "norm" in n} == {5e-4}
    assert {rates[id(p)] for n, p in named.items() if "lora_B" in n} == {4e-3}
    METHODS["lora_plus"].detach(run_.base)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random, of lorry-tiny's words. It keeps its linear layers the other way round."""
    folder = tmp_path_factory.mktemp("bases") / "gpt2"
    tokenizer = AutoTokenizer.from_pretrained(resolve("lorry-tiny"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=256, n_embd=64, n_layer=2, n_head=2, bos_token_id=0
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["full", "pissa", "loftq"])
def test_layers_that_a_base_keeps_the_other_way_round(
    method: str, gpt2_folder: Path, tmp_path: Path
) -> None:
    """They ended in errors of sizes that do not match."""
    values = short(method).model_dump()
    values["base"] = str(gpt2_folder)
    values["lora"] |= {"target_modules": ("c_attn", "c_proj"), "rank": 64}
    recipe, own = Recipe.model_validate(values), Bases()
    base = base_of(recipe, own)
    before = loss_of(base.model, base, recipe)
    metrics = go(recipe, tmp_path / "out", own).metrics
    assert loss_of(base.model, base, recipe) == before
    loaded = PeftModel.from_pretrained(base.model, tmp_path / "out")
    assert loss_of(loaded, base, recipe) == pytest.approx(metrics["test_loss"], abs=1e-4)
    if method == "full":  # whose factors hold the whole change of so narrow a base
        assert metrics["svd_energy_kept_worst_layer"] == pytest.approx(1, abs=1e-3)
    if method == "loftq":
        assert metrics["loftq_recovered_at_start"] > 0.5


def test_pissa_starts_where_the_base_is(bases: Bases) -> None:
    """The principal part is in the factors instead of the weights, and the sum is as before."""
    recipe = short("pissa")
    run_ = prepare(recipe, "x", prepare_data(recipe, FOLDER, Silent()), bases)
    before = loss_of(run_.base.model, run_.base, recipe)
    layer = run_.base.model.model.layers[0].self_attn.q_proj
    original = layer.weight.clone()
    model = METHODS["pissa"].attach(run_.base, run_.recipe, "CAUSAL_LM")
    assert (layer.weight - original).abs().max() > 1e-2
    assert loss_of(model, run_.base, recipe) == pytest.approx(before, abs=1e-4)
    METHODS["pissa"].finish(run_.base, model, run_.recipe)
    METHODS["pissa"].detach(run_.base)
    assert torch.equal(run_.base.model.model.layers[0].self_attn.q_proj.weight, original)


def test_loftq_starts_nearer_to_the_unquantized_base(bases: Bases) -> None:
    """Held against the exact base: the logits of NF4 with LoftQ's factors differ less than those of NF4 alone."""
    recipe = short("loftq")
    recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"rank": 128})})
    run_ = prepare(recipe, "x", prepare_data(recipe, FOLDER, Silent()), bases)
    ids = torch.arange(100, 400, 3)[None]
    with torch.inference_mode():
        quantized = run_.base.model(ids).logits
    model = METHODS["loftq"].attach(run_.base, run_.recipe, "CAUSAL_LM")
    with torch.inference_mode():
        started = model(ids).logits
        exact = base_of(short("lora"), bases).model(ids).logits
    METHODS["loftq"].detach(run_.base)
    assert (started - exact).norm() < 0.7 * (quantized - exact).norm()


def test_loraplus_gives_b_a_learning_rate_of_its_own(bases: Bases, tmp_path: Path) -> None:
    from lorry_trainer.train import make_trainer

    recipe = short("lora_plus")
    run_ = prepare(recipe, "x", prepare_data(recipe, FOLDER, Silent()), bases)
    trainer = make_trainer(run_, str(tmp_path), watched=False)
    optimizer = METHODS["lora_plus"].optimizer(trainer, run_.recipe)
    assert optimizer is not None
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert len(rates) == len(named)
    assert {rates[id(p)] for n, p in named.items() if "lora_A" in n} == {5e-4}
    assert {rates[id(p)] for n, p in named.items() if "lora_B" in n} == {4e-3}
    METHODS["lora_plus"].detach(run_.base)


def test_a_change_of_low_rank_is_cut_down_without_loss() -> None:
    torch.manual_seed(0)
    delta = torch.randn(20, 4) @ torch.randn(4, 30)
    part = truncate(delta, 6)
    assert (part.a.shape, part.b.shape) == ((6, 30), (20, 6))
    torch.testing.assert_close(part.b @ part.a, delta, rtol=1e-4, atol=1e-4)
    assert part.kept == pytest.approx(part.total)
    less = truncate(delta, 2)
    lost = (delta - less.b @ less.a).double().square().sum()
    assert less.total - less.kept == pytest.approx(float(lost), rel=1e-4)


def test_full_fine_tuning_tells_what_its_adapter_keeps(bases: Bases, tmp_path: Path) -> None:
    some = short("full", max_steps=1)
    recipe = some.model_copy(
        update={
            "full": some.full.model_copy(  # type: ignore[union-attr]
                update={"weights": "all", "model": str(tmp_path / "whole")}
            )
        }
    )
    metrics = go(recipe, tmp_path / "out", bases).metrics
    assert 0 < metrics["svd_energy_kept"] < 1
    error = (1 - metrics["svd_energy_kept"]) ** 0.5
    assert metrics["svd_relative_error"] == pytest.approx(error)
    assert metrics["trained_test_loss"] != metrics["test_loss"]

    from lorry_bases import Quantization
    from lorry_bases.load import load_base

    whole = load_base(str(tmp_path / "whole"), quantization=Quantization(type="none"), device="cpu")
    assert loss_of(whole.model, whole, recipe) == pytest.approx(
        metrics["trained_test_loss"], abs=1e-4
    )
    base = base_of(recipe, bases)  # and the base is again what it was
    assert loss_of(base.model, base, recipe) == pytest.approx(metrics["base_test_loss"], abs=1e-6)
