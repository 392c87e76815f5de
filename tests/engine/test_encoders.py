"""Encoders: whole texts, adapters of many kinds and label counts in one batch, held against PEFT on the same base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AutoModelForMaskedLM, DebertaV2Config, FNetConfig

from lorry_bases.describe import describe
from lorry_bases.load import load_served
from lorry_registry.errors import FailedPrecondition, InvalidArgument
from lorry_server.engine.adapters.recipe import Recipe, Term
from lorry_server.engine.config import EngineConfig
from lorry_server.engine.encoder_runner import EncoderRunner
from lorry_server.engine.request import GenerationRequest, SamplingParams

from .encoders import CONFIGS, CONTEXT_LENGTH, Plain, judging, random_encoder, save_classifier
from .rig import Rig

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")

LABELS = {"two": 2, "three": 3, "five": 5}


def texts(count: int, longest: int = CONTEXT_LENGTH) -> list[list[int]]:
    """Of 1 to `longest` tokens, some longer than any window."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.linspace(1, longest, count).int().tolist()
    return [torch.randint(5, 96, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(family: str) -> Path:
        if family not in made:
            made[family] = random_encoder(family, tmp_path_factory.mktemp("encoders") / family)
        return made[family]

    return get


@pytest.fixture(scope="session")
def classifiers(
    encoder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], dict[str, Path]]:
    """Three adapters for a family, by the names in `LABELS`."""
    made: dict[str, dict[str, Path]] = {}

    def get(family: str) -> dict[str, Path]:
        if family not in made:
            folder = tmp_path_factory.mktemp(f"classifiers-{family}")
            ways: list[dict[str, Any]] = [{}, {"r": 8, "use_rslora": True}, {"use_dora": True}]
            made[family] = {
                name: save_classifier(
                    encoder(family), folder / name, num_labels=LABELS[name], seed=i, **way
                )
                for i, (name, way) in enumerate(zip(LABELS, ways, strict=True))
            }
        return made[family]

    return get


def classify(rig: Rig, name: str, token_ids: list[int], adapter: str | None, **how: Any) -> str:
    rig.engine.submit(
        GenerationRequest(
            name,
            tuple(token_ids),
            SamplingParams(max_tokens=0),
            adapter,
            pool_from=0,
            classifies=True,
            **how,
        )
    )
    return name


def embed(
    rig: Rig, name: str, token_ids: list[int], adapter: str | None, at: int, **how: Any
) -> str:
    params = SamplingParams(max_tokens=0)
    rig.engine.submit(
        GenerationRequest(name, tuple(token_ids), params, adapter, pool_from=at, **how)
    )
    return name


@pytest.mark.parametrize("family", CONFIGS)
def test_a_mixed_batch_says_what_peft_says_of_each(
    family: str, encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    """Adapters with heads of 2, 3 and 5 labels, and the bare base between them: labels, and states of all tokens."""
    folders = classifiers(family)
    plain = {name: Plain(encoder(family), folders[name], LABELS[name]) for name in LABELS}
    asked = texts(9)
    with Rig(load_served(str(encoder(family)), device="cpu"), folders) as rig:
        for i, text in enumerate(asked):
            for name in LABELS:
                classify(rig, f"{name}-{i}", text, name)
                embed(rig, f"{name}-mean-{i}", text, name, 0)
            embed(rig, f"bare-{i}", text, None, 0)
        rig.wait(*(f"{name}-{i}" for i in range(len(asked)) for name in LABELS))
        rig.wait(*(f"{name}-mean-{i}" for i in range(len(asked)) for name in LABELS))
        rig.wait(*(f"bare-{i}" for i in range(len(asked))))
        for i, text in enumerate(asked):
            for name in LABELS:
                assert rig.error(f"{name}-{i}") is None
                said = rig.last(f"{name}-{i}").embedding
                assert said == pytest.approx(plain[name].labels(text), abs=1e-3)
                states = plain[name].states(text)
                mean = rig.last(f"{name}-mean-{i}").embedding
                assert mean == pytest.approx(states.mean(0).tolist(), abs=1e-3)
            with plain["two"].model.disable_adapter():
                states = plain["two"].states(text)
            bare = rig.last(f"bare-{i}").embedding
            assert bare == pytest.approx(states.mean(0).tolist(), abs=1e-3)
        stats = rig.idle()
        assert (stats.kv_blocks_total, stats.prefix_hit_tokens, stats.preemptions) == (0, 0, 0)


def test_what_adapters_change_is_seen(
    encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    """Else the comparison would show nothing: adapters differ from one another and from the base, in every family."""
    text = texts(3)[-1]
    for family in CONFIGS:
        plain = Plain(encoder(family), classifiers(family)["two"], 2)
        with_adapter, labels = plain.states(text), torch.tensor(plain.labels(text))
        with plain.model.disable_adapter():
            assert (plain.states(text) - with_adapter).abs().max() > 0.1
        assert (torch.tensor(plain.labels(text[::-1])) - labels).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["bert-with-pooler", "roberta", "modernbert"])
def test_more_than_lora_acts_behind_the_last_layer_too(
    family: str, encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    """(IA)³ everywhere, and whole embeddings; a pooler or a head that is the base's own has adapters beside it."""
    base = encoder(family)
    loaded = judging(base, 3, 5)
    linears = [path.rpartition(".")[2] for path in describe(load_served(str(base))).modules]
    config = IA3Config(
        task_type="SEQ_CLS",
        target_modules=linears,
        feedforward_modules=[name for name in ("dense", "Wo") if name in linears],
        modules_to_save=list(loaded.new_modules),
        init_ia3_weights=False,
    )
    model = get_peft_model(loaded.model, config)
    for name, parameter in model.named_parameters():
        if "ia3_" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    model.save_pretrained(tmp_path / "ia3")
    embeddings = "tok_embeddings" if family == "modernbert" else "word_embeddings"
    whole = judging(base, 4, 6)
    save_classifier_with(whole, tmp_path / "whole", embeddings)
    folders = {"ia3": tmp_path / "ia3", "whole": tmp_path / "whole"}
    plain = {"ia3": Plain(base, folders["ia3"], 3), "whole": Plain(base, folders["whole"], 4)}
    with Rig(load_served(str(base), device="cpu"), folders) as rig:
        for i, text in enumerate(texts(4)):
            for name in folders:
                rig.wait(classify(rig, f"{name}-{i}", text, name))
                assert rig.error(f"{name}-{i}") is None
                said = rig.last(f"{name}-{i}").embedding
                assert said == pytest.approx(plain[name].labels(text), abs=1e-3)


def save_classifier_with(loaded: Any, folder: Path, embeddings: str) -> None:
    """LoRA, and all word embeddings trained whole."""
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=4,
        target_modules="all-linear",
        init_lora_weights=False,
        modules_to_save=[*loaded.new_modules, embeddings],
    )
    model = get_peft_model(loaded.model, config)
    for name, parameter in model.named_parameters():
        if f"{embeddings}.modules_to_save" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.save_pretrained(folder, save_embedding_layers=False)


@pytest.mark.parametrize("family", ["bert-with-pooler", "modernbert"])
def test_an_adapter_that_is_merged_says_the_same(
    family: str, encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    """And so do the others beside it, in the same steps."""
    folders, asked = classifiers(family), texts(6)
    with Rig(load_served(str(encoder(family)), device="cpu"), folders) as rig:
        names = [f"{name}-{i}" for name in LABELS for i in range(len(asked))]
        for name in names:
            adapter, _, index = name.partition("-")
            classify(rig, name, asked[int(index)], adapter)
        rig.wait(*names)
        rig.engine.merge("three").result(60)
        for name in names:
            adapter, _, index = name.partition("-")
            classify(rig, f"merged-{name}", asked[int(index)], adapter)
        rig.wait(*(f"merged-{name}" for name in names))
        for name in names:
            said = rig.last(f"merged-{name}").embedding
            assert said == pytest.approx(rig.last(name).embedding, abs=1e-3)


def test_a_composition_embeds_as_the_sum_of_its_adapters(
    encoder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Of adapters without heads; what they add to every layer adds up."""
    base = encoder("bert")
    folders = {}
    for seed, name in enumerate("ab"):
        model = judging(base, 2).model
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["query", "value"], init_lora_weights=False)
        get_peft_model(model, config).save_pretrained(tmp_path / name)
        folders[name] = tmp_path / name
    plain = Plain(base, folders["a"], 2)
    plain.model.load_adapter(folders["b"], "b")
    plain.model.add_weighted_adapter(["default", "b"], [0.75, 0.5], "both", "cat")
    plain.model.set_adapter("both")
    recipe = Recipe((Term("a", 0.75), Term("b", 0.5)))
    text = texts(2)[-1]
    with Rig(load_served(str(base), device="cpu"), folders) as rig:
        rig.wait(embed(rig, "both", text, rig.compose(recipe), 0))
        said = rig.last("both").embedding
    assert said == pytest.approx(plain.states(text).mean(0).tolist(), abs=1e-3)


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_texts_longer_than_a_step_run_alone_and_whole(
    family: str, encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    """With room for 16 tokens in a step, texts of up to 64 are answered, and those behind them."""
    folders, asked = classifiers(family), texts(7)
    plain = Plain(encoder(family), folders["two"], 2)
    base = load_served(str(encoder(family)), device="cpu")
    with Rig(base, folders, max_batched_tokens=16) as rig:
        names = [f"long-{i}" for i in range(len(asked))]
        for name, text in zip(names, reversed(asked), strict=True):
            classify(rig, name, text, "two")
        rig.wait(*names)
        for name, text in zip(names, reversed(asked), strict=True):
            assert rig.last(name).embedding == pytest.approx(plain.labels(text), abs=1e-3)
        with pytest.raises(InvalidArgument, match="between 1 and 64"):
            classify(rig, "too long", [5] * 65, "two")


def test_two_texts_are_told_apart_by_their_types(
    encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    plain = Plain(encoder("bert"), classifiers("bert")["two"], 2)
    text = texts(2)[-1]
    types = (0,) * 20 + (1,) * (len(text) - 20)
    states = plain.states(text, token_type_ids=torch.tensor([types]))
    assert (states - plain.states(text)).abs().max() > 0.1
    base = load_served(str(encoder("bert")), device="cpu")
    with Rig(base, classifiers("bert")) as rig:
        embed(rig, "other", texts(3)[1], "three", 0)
        embed(rig, "pair", text, "two", 0, token_types=types)
        rig.wait("pair", "other")
        said = rig.last("pair").embedding
    assert said == pytest.approx(states.mean(0).tolist(), abs=1e-3)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_padding_that_stands_in_a_text_has_the_place_that_it_had_in_training(
    family: str, encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    """RoBERTa does not count it."""
    plain = Plain(encoder(family), classifiers(family)["two"], 2)
    text = [7, 1, 9, 0, 1, 1, 30, 0, 12]
    with Rig(load_served(str(encoder(family)), device="cpu"), classifiers(family)) as rig:
        rig.wait(classify(rig, "padded", text, "two"))
        assert rig.last("padded").embedding == pytest.approx(plain.labels(text), abs=1e-3)


def test_a_head_for_another_task_or_a_part_of_one_classifies_no_text(
    encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]], tmp_path: Path
) -> None:
    """A tagger's head has the same name and shape, and would say anything of the first token's state."""
    folder = classifiers("distilbert")["two"]
    for name in ("tagger", "headless"):
        (tmp_path / name).mkdir()
        for file in folder.iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
        weights = tmp_path / name / "adapter_model.safetensors"
        tensors = {n: t for n, t in load_file(weights).items() if "pre_classifier" not in n}
        save_file(tensors, weights, metadata={"format": "pt"})
        config = tmp_path / name / "adapter_config.json"
        config.write_text(config.read_text().replace('"pre_classifier"', '"classifier"'))
    config = tmp_path / "tagger" / "adapter_config.json"
    config.write_text(config.read_text().replace("SEQ_CLS", "TOKEN_CLS"))
    folders = {name: tmp_path / name for name in ("tagger", "headless")}
    with Rig(load_served(str(encoder("distilbert")), device="cpu"), folders) as rig:
        for name in folders:
            rig.wait(classify(rig, name, [5, 6, 7], name))
            error = rig.error(name)
            assert isinstance(error, FailedPrecondition)
            assert error.reason == "NO_HEAD", error
            rig.wait(embed(rig, f"{name}-embeds", [5, 6, 7], name, 2))
            assert len(rig.last(f"{name}-embeds").embedding) == 64


REFUSED = {
    "DebertaV2ForSequenceClassification": (
        DebertaV2Config(vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=4),
        "2 of its 2 layers do not attend",
    ),
    "FNetForSequenceClassification": (
        FNetConfig(vocab_size=96, hidden_size=64, num_hidden_layers=2, intermediate_size=128),
        "attend",
    ),
    "AlbertForSequenceClassification": (
        AlbertConfig(
            vocab_size=96,
            embedding_size=32,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
        ),
        "forward pass fails|is off",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_encoder_that_cannot_be_served_is_refused_by_name(name: str, tmp_path: Path) -> None:
    config, why = REFUSED[name]
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    base = load_served(str(tmp_path), device="cpu")
    described = describe(base)
    with pytest.raises(FailedPrecondition, match=why) as refused:
        EncoderRunner(
            base.model, EngineConfig(slots=2), described.modules, described.parameters, 64
        )
    assert refused.value.reason == "BASE_NOT_SERVABLE"
    assert refused.value.metadata == {"architecture": name}


def test_what_an_adapter_does_is_measured_over_all_states(
    encoder: Callable[[str], Path], classifiers: Callable[[str], dict[str, Path]]
) -> None:
    plain = Plain(encoder("bert"), classifiers("bert")["two"], 2)
    with Rig(load_served(str(encoder("bert")), device="cpu"), classifiers("bert")) as rig:
        rig.wait(embed(rig, "one", [5], "two", 0))
        [resident] = rig.idle().residents
        prompt = list(rig.engine._runner.effects._prompt)
    with_adapter = plain.states(prompt)
    with plain.model.disable_adapter():
        change = (with_adapter - plain.states(prompt)).abs().max().item()
    assert resident.logit_change == pytest.approx(change, rel=1e-2)
