"""Labels by an adapter's own head."""

from __future__ import annotations

import json
import math
import shutil

import grpc
import pytest

from lorry.inference.v1 import inference_service_pb2 as pb

from .conftest import explained

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
TEXT = "Once upon a time there was a river that ran over a stone"


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return explained(refused.value)[:2]


async def test_labels_are_the_softmax_of_what_the_head_says(node):
    version = node.registry.publish("support")
    told = await node.inference.Classify(pb.ClassifyRequest(text="hello", adapter="support"))
    submitted = node.engine.submitted[-1]
    assert submitted.classifies
    assert submitted.pool_from == len(submitted.prompt_token_ids) - 1
    logits = [3.0, float(submitted.pool_from), 4.0]  # what the fake engine tells
    assert [(label.index, label.logit) for label in told.labels] == list(enumerate(logits))
    total = sum(map(math.exp, logits))
    assert [label.probability for label in told.labels] == pytest.approx(
        [math.exp(logit) / total for logit in logits]
    )
    assert told.adapter_digest == version.digest
    assert {label.name for label in told.labels} == {""}


@pytest.fixture
def named(tmp_path):
    """A folder whose labels are the given ones; the fake engine's head has three outputs."""

    def make(*names):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for path in ("adapter_config.json", "adapter_model.safetensors"):
            (folder / path).write_text("the same")
        (folder / "labels.json").write_text(json.dumps(names))
        return folder

    return make


async def test_labels_have_the_names_of_the_version_that_acts(node, named):
    """By its digest: an alias that moves takes the names along, and a server that starts again has them."""
    first = node.registry.publish("mood", folder=named("sad", "neither", "glad"))
    second = node.registry.publish("mood", folder=named("1 star", "2 stars", "3 stars"))
    node.registry.publish("plain")

    async def names(adapter):
        told = await node.inference.Classify(pb.ClassifyRequest(text="hi", adapter=adapter))
        return told.adapter_digest, [label.name for label in told.labels]

    for _ in range(2):
        assert await names("mood:1") == (first.digest, ["sad", "neither", "glad"])
        assert await names("mood") == (second.digest, ["1 star", "2 stars", "3 stars"])
        assert (await names("plain"))[1] == ["", "", ""]
    fetches = node.registry.fetches
    node.registry.away = True
    assert await names(f"mood@{first.digest}") == (first.digest, ["sad", "neither", "glad"])
    assert node.registry.fetches == fetches


async def test_a_second_text_is_read_with_the_first_as_in_training(node, tokenizer):
    node.registry.publish("support")
    texts = {"text": "hello there", "pair": "good bye"}
    await node.inference.Classify(pb.ClassifyRequest(**texts, adapter="support"))
    # A decoder, whose tokenizer has nothing to part them with; an encoder's pairs them (tests/e2e).
    read = tokenizer(f"{texts['text']}\n\n{texts['pair']}")["input_ids"]
    assert list(node.engine.submitted[-1].prompt_token_ids) == read
    await node.inference.Classify(pb.ClassifyRequest(text="hello there", adapter="support"))
    alone = tokenizer("hello there")["input_ids"]
    assert list(node.engine.submitted[-1].prompt_token_ids) == alone
    tokens = pb.TokenPrompt(token_ids=[5, 6])
    call = node.inference.Classify(pb.ClassifyRequest(tokens=tokens, pair="b", adapter="support"))
    assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "PAIR_WITHOUT_TEXT")
    long = "a river " * 200_000
    for pair in ({"text": "a", "pair": long}, {"text": long, "pair": "a"}):
        call = node.inference.Classify(pb.ClassifyRequest(**pair, adapter="support"))
        assert await refusal(call) == (grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG")


async def test_the_bare_base_classifies_nothing(node):
    call = node.inference.Classify(pb.ClassifyRequest(text="hello"))
    assert await refusal(call) == (PRECONDITION, "NO_HEAD")
    assert not node.engine.submitted


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A classifier as PEFT saves it, and the same without its head."""
    from peft import LoraConfig, TaskType, get_peft_model
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForSequenceClassification

    from lorry_bases import resolve

    folder = tmp_path_factory.mktemp("classifier")
    model = AutoModelForSequenceClassification.from_pretrained(resolve("lorry-tiny"), num_labels=3)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
    )
    get_peft_model(model, config).save_pretrained(folder)
    headless = tmp_path_factory.mktemp("headless")
    shutil.copytree(folder, headless, dirs_exist_ok=True)
    weights = load_file(folder / "adapter_model.safetensors")
    [head] = [name for name in weights if "score" in name]
    save_file(
        {name: tensor for name, tensor in weights.items() if name != head},
        headless / "adapter_model.safetensors",
    )
    written = json.loads((headless / "adapter_config.json").read_text())
    written |= {"modules_to_save": None, "task_type": "CAUSAL_LM"}
    (headless / "adapter_config.json").write_text(json.dumps(written))
    return folder, headless, weights[head]


async def test_labels_are_those_of_peft(start_real, tiny, tokenizer, classifier):
    """Beside an adapter without a head, which is told so, and which still embeds."""
    import torch
    from peft import PeftModel

    folder, headless, head = classifier
    (folder / "labels.json").write_text('["low", "middle", "high"]')
    peft = PeftModel.from_pretrained(tiny().model, headless)
    with torch.inference_mode():
        ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
        state = peft(ids, output_hidden_states=True).hidden_states[-1][0, -1].float()
    async with start_real(max_batched_tokens=16) as node:
        node.registry.publish("classifier", folder=folder)
        node.registry.publish("headless", folder=headless)
        told = await node.inference.Classify(pb.ClassifyRequest(text=TEXT, adapter="classifier"))
        assert [label.logit for label in told.labels] == pytest.approx(
            (head.float() @ state).tolist(), abs=1e-3
        )
        assert [label.name for label in told.labels] == ["low", "middle", "high"]
        call = node.inference.Classify(pb.ClassifyRequest(text=TEXT, adapter="headless"))
        assert await refusal(call) == (PRECONDITION, "NO_HEAD")
        embedded = await node.inference.Embed(pb.EmbedRequest(text=TEXT, adapter="headless"))
        assert list(embedded.embedding) == pytest.approx(state.tolist(), abs=1e-3)


async def test_names_that_are_not_those_of_the_head_refuse_the_adapter(
    start_real, classifier, tmp_path
):
    """A version from a registry that did not look: nothing is answered under wrong names."""
    folder = tmp_path / "misnamed"
    shutil.copytree(classifier[0], folder)
    (folder / "labels.json").write_text('["low", "high"]')
    async with start_real() as node:
        node.registry.publish("misnamed", folder=folder)
        with pytest.raises(grpc.aio.AioRpcError, match="2 names") as refused:
            await node.inference.Classify(pb.ClassifyRequest(text=TEXT, adapter="misnamed"))
        assert explained(refused.value)[1] == "ADAPTER_UNREADABLE"
