"""Every objective on a random base: it learns what its rows say, and what is written is all that is needed to judge."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from lorry_bases.load import Head, load_base
from lorry_trainer.bases import Bases
from lorry_trainer.data import load
from lorry_trainer.errors import DataError, RecipeError
from lorry_trainer.examples import objectives as examples
from lorry_trainer.examples.objectives import encoder
from lorry_trainer.examples.objectives.generate import TASKS, rows, write
from lorry_trainer.formats.contract import Example
from lorry_trainer.looking import look
from lorry_trainer.objectives import OBJECTIVES, find
from lorry_trainer.objectives.labels import span_metrics
from lorry_trainer.prepare import prepare, prepare_data
from lorry_trainer.progress import Silent
from lorry_trainer.recipe import OBJECTIVE_SECTIONS, Data
from lorry_trainer.recipe_file import read_recipe
from lorry_trainer.remote import read_questions
from lorry_trainer.rewards import find_reward, number
from lorry_trainer.run import Result, run
from lorry_trainer.spans import spans
from lorry_trainer.train import make_trainer

FOLDER = Path(examples.__file__).parent
Write = Callable[..., Path]
Tiny = Callable[..., Any]

DATA = {
    "tokens": "slots",
    "extraction": "passage",
    "dpo": "polite",
    "orpo": "polite",
    "reward": "polite",
    "kto": "judged",
}
TAGS = Head(AutoModelForTokenClassification, ("B-a", "O"))
COLOURS = {"red": "warm", "orange": "warm", "blue": "cold", "white": "cold"}


def colours(count: int) -> list[dict[str, Any]]:
    """Texts of two kinds, told by one word."""
    words = list(COLOURS)
    return [
        {"text": f"{words[i % 4]} paint {i}", "label": COLOURS[words[i % 4]]} for i in range(count)
    ]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one of the examples."""
    folder = tmp_path_factory.mktemp("bases") / "tiny-encoder"
    encoder.write(folder)
    return folder


@pytest.fixture
def learn(tiny_recipe: Tiny, write_rows: Write, tmp_path: Path) -> Callable[..., Result]:
    """Trains an objective on its example's rows for a few steps."""

    def go(objective: str, data: list[dict[str, Any]] | None = None, **sections: Any) -> Result:
        write_rows(rows(DATA[objective])[:120] if data is None else data)
        training = {"max_steps": 24, "early_stopping_patience": 0}
        training |= sections.pop("training", {})
        values = {
            "objective": objective,
            "method": "qlora",
            "data": {"splits": {"validation": 0.0, "test": 0.3}},
            "evaluation": {"max_new_tokens": None, "max_rows": 24},
        }
        recipe = tiny_recipe(**values | {"training": training} | sections)
        return run(recipe, name="it", folder=tmp_path, output=tmp_path / "out", overwrite=True)

    return go


@pytest.mark.parametrize("objective", ["dpo", "orpo", "kto", "reward"])
def test_preferences_are_learnt(learn: Callable[..., Result], objective: str) -> None:
    result = learn(objective)
    # TRL keeps the start as a second adapter, which was published beside the first.
    assert not [path for path in result.folder.iterdir() if path.is_dir()]
    before, after = (result.metrics[f"{when}test_{result.metric}"] for when in ("base_", ""))
    assert after >= 0.9
    assert after >= before
    # Such figures had no interval: 29 rows looked like a finding.
    assert result.metrics[f"base_test_{result.metric}_low"] <= before
    assert before <= result.metrics[f"base_test_{result.metric}_high"]


@pytest.mark.parametrize("on", ["decoder", "encoder"])
@pytest.mark.parametrize("objective", ["classification", "tokens"])
def test_labels_are_learnt_and_the_head_is_published(
    learn: Callable[..., Result], encoder_folder: Path, objective: str, on: str
) -> None:
    sections: dict[str, Any] = {"base": str(encoder_folder)} if on == "encoder" else {}
    if on == "encoder" and objective == "classification":
        sections["lora"] = {"rank": 8, "alpha": 32, "target_modules": ["query", "key"]}
    result = learn(
        objective,
        colours(120) if objective == "classification" else None,
        training={"max_steps": 80, "learning_rate": 0.01},
        **sections,
    )
    before, after = (result.metrics[f"{when}test_{result.metric}"] for when in ("base_", ""))
    # Of the names that are to be tagged, some occur in no training row.
    assert after >= (0.9 if objective == "classification" else 0.5)
    assert after > before + 0.3
    names = json.loads((result.folder / "labels.json").read_text())
    assert names == sorted(names)
    assert len(names) == _head(result.folder).shape[0]
    # Once 0, for these two objectives' trainer counts tokens only when told to.
    assert result.metrics["train_tokens"] > 0


@pytest.mark.parametrize("on", ["decoder", "encoder"])
def test_two_texts_are_learnt_as_a_server_is_asked(
    on: str, write_rows: Write, base_folder: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    """A decoder's tokenizer glued them together (`…tall boxthe box…`), and `lorry eval` asked with a blank line
    between: another accuracy on the same rows. An encoder's tokenizer marks where the second begins."""
    said = [
        {"premise": f"box {i} is red", "hypothesis": f"it is {i}", "label": i % 2}
        for i in range(20)
    ]
    data = Data(path=write_rows(said).name)
    head = Head(AutoModelForSequenceClassification, ("0", "1"))
    base = load_base(
        str(base_folder if on == "decoder" else encoder_folder), device="cpu", head=head
    )
    (first, *_), tokenizer = load(data, tmp_path, 0, ("labelled",)).train, base.tokenizer
    assert tokenizer is not None
    learnt = find("classification").inputs(base, first)["input_ids"]
    if on == "encoder":
        assert learnt == tokenizer(first.record["text"], first.record["pair"])["input_ids"]
        return
    asked = [row.asked for row in read_questions(data, tmp_path, 100, 0).rows]
    assert learnt in [
        tokenizer(text)["input_ids"] for text in asked if first.record["text"] in text
    ]


def _head(folder: Path) -> torch.Tensor:
    """A head's weight: [num_labels, hidden]."""
    weights = load_file(folder / "adapter_model.safetensors")
    [head] = [t for n, t in weights.items() if n.endswith(("score.weight", "classifier.weight"))]
    return head


def test_a_reward_on_a_base_that_ends_no_text(
    learn: Callable[..., Result], encoder_folder: Path
) -> None:
    """Once a TypeError out of TRL: an encoder's tokenizer has no eos_token, and plain answers end with it."""
    plain = [{"prompt": f"paint {i}", "chosen": "red", "rejected": "blue"} for i in range(40)]
    with pytest.raises(DataError, match="no token that ends a text"):
        learn("reward", plain, base=str(encoder_folder))


def test_a_judge_is_whole_in_its_folder(
    learn: Callable[..., Result], encoder_folder: Path, tmp_path: Path
) -> None:
    """A head, and a pooler that the base has no weights for, are drawn anew at every load: they must be published."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    result = learn("classification", colours(120), base=str(encoder_folder), method="lora")
    texts = [row["text"] for row in colours(8)]
    batch = AutoTokenizer.from_pretrained(encoder_folder)(texts, padding=True, return_tensors="pt")
    said = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        base = AutoModelForSequenceClassification.from_pretrained(encoder_folder, num_labels=2)
        with torch.inference_mode():
            said.append(PeftModel.from_pretrained(base, result.folder).eval()(**batch).logits)
    torch.testing.assert_close(said[0], said[1])
    # The card told of a causal LM, whatever had been learnt.
    card = (result.folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "AutoModelForSequenceClassification.from_pretrained(" in card
    assert "num_labels=2)" in card


def test_an_answer_is_found_in_its_text(learn: Callable[..., Result], encoder_folder: Path) -> None:
    result = learn(
        "extraction",
        base=str(encoder_folder),
        training={"max_steps": 60, "learning_rate": 0.02},
    )
    assert result.metrics["test_exact_match"] > result.metrics["base_test_exact_match"] + 0.1


def test_a_decoder_that_cannot_extract_is_refused(learn: Callable[..., Result]) -> None:
    """transformers looked for its layers under other names, drew them anew, and nobody said so."""
    with pytest.raises(RecipeError, match="Take an encoder"):
        learn("extraction")


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_a_reward_is_earned_and_the_divergence_reported(
    learn: Callable[..., Result], tmp_path: Path, objective: str
) -> None:
    (tmp_path / "brief.py").write_text((FOLDER / "brief_reward.py").read_text())
    result = learn(
        objective,
        rows("brief")[:60],
        reinforcement={"reward": "brief.py:brief", "max_new_tokens": 6},
        training={"max_steps": 6, "learning_rate": 0.003},
    )
    metrics = result.metrics
    assert metrics["train_kl"] > 0
    low, high = metrics["test_reward_low"], metrics["test_reward_high"]
    assert 0 <= low <= metrics["test_reward"] <= high <= 1
    assert metrics["base_test_win_rate"] == 0.5
    resolved = read_recipe(result.folder / "recipe.yaml").evaluation
    assert (resolved.reward, resolved.max_new_tokens) == ("brief.py:brief", 6)


@pytest.mark.parametrize("objective", ["sft", "dpo", "kto"])
def test_answers_of_any_objective_are_judged_by_a_reward(
    learn: Callable[..., Result], tmp_path: Path, objective: str
) -> None:
    """The rewards are those of the answers that the report shows, and the win rate is over the bare base's."""
    (tmp_path / "judge.py").write_text(
        "def judge(prompt, said, answer):\n"
        "    open('said.txt', 'a').write(repr(said) + '\\n')\n"
        "    return said.count('a') - said.count('b')\n".replace("said.txt", str(tmp_path / "said"))
    )
    result = learn(
        objective,
        [{"instruction": f"say {i}", "output": "aaa"} for i in range(60)]
        if objective == "sft"
        else None,
        evaluation={"reward": "judge.py:judge", "max_new_tokens": 4, "max_rows": 6},
    )
    said = [ast.literal_eval(line) for line in (tmp_path / "said").read_text().splitlines()]
    rewards = [s.count("a") - s.count("b") for s in said]
    bare, adapted = rewards[: len(rewards) // 2], rewards[len(rewards) // 2 :]
    metrics = result.metrics
    assert metrics["base_test_reward"] == pytest.approx(sum(bare) / len(bare))
    assert metrics["test_reward"] == pytest.approx(sum(adapted) / len(adapted))
    won = [(a > b) + (a == b) / 2 for a, b in zip(adapted, bare, strict=True)]
    assert metrics["test_win_rate"] == pytest.approx(sum(won) / len(won))
    if objective == "sft":
        assert metrics["test_win_rate"] == 1


def test_a_rule_cannot_judge_by_answers_that_may_be_bad(learn: Callable[..., Result]) -> None:
    with pytest.raises(RecipeError, match="good ones and bad ones"):
        learn("kto", evaluation={"reward": "contains", "max_rows": 8})


def test_a_run_ends_where_the_divergence_leaves_its_bound(
    learn: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "brief.py").write_text((FOLDER / "brief_reward.py").read_text())
    result = learn(
        "grpo",
        rows("brief")[:60],
        reinforcement={"reward": "brief.py:brief", "max_new_tokens": 4, "max_kl": 1e-9},
        training={"max_steps": 6, "learning_rate": 0.01},
    )
    assert result.metrics["steps"] < 6


def test_each_of_several_runs_on_one_base_has_its_own_reward(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path
) -> None:
    """The reward was found while the base was loaded: the next run on it had another's."""
    write_rows(rows("brief")[:40])
    judges = {"one": "def judge(*row): return 1.0", "two": "def judge(*row): return 2.0"}
    bases = Bases()
    for name, code in judges.items():
        (tmp_path / f"{name}.py").write_text(code)
        recipe = tiny_recipe(
            objective="grpo",
            method="qlora",
            reinforcement={"reward": f"{name}.py:judge", "max_new_tokens": 2},
            data={"splits": {"validation": 0.0, "test": 0.2}},
            training={"max_steps": 1, "device": "cpu"},
            evaluation={"max_new_tokens": None, "max_rows": 4},
        )
        result = run(
            recipe, name=name, folder=tmp_path, output=tmp_path / f"out-{name}", bases=bases
        )
        assert result.metrics["test_reward"] == float(code[-3:])


def test_a_reward_model_that_was_trained_here_is_a_reward(
    learn: Callable[..., Result], tmp_path: Path
) -> None:
    trained = learn("reward").folder
    judge = find_reward(trained.name, tmp_path, "cpu").judge
    row = rows("polite")[0]
    kind, rude = judge([row["prompt"]] * 2, [row["chosen"], row["rejected"]], ["", ""])
    assert kind > rude


# Rules and figures.


def test_spans_are_those_of_conll() -> None:
    assert spans(["B-a", "I-a", "O", "I-b", "B-b"]) == {(0, 2, "a"), (3, 4, "b"), (4, 5, "b")}
    assert spans(["B-a", "I-b", "I-b"]) == {(0, 1, "a"), (1, 3, "b")}


@pytest.mark.parametrize(
    "tags",
    [
        ["B-a", "I-a", "E-a", "S-b", "O", "B-a", "E-a"],  # BIOES
        ["B-a", "I-a", "L-a", "U-b", "O", "B-a", "L-a"],  # BILOU
        ["B-a", "M-a", "E-a", "S-b", "O", "B-a", "E-a"],  # BMES
        ["B-a", "M-a", "E-a", "W-b", "O", "B-a", "E-a"],  # BMEWO
    ],
)
def test_spans_whose_last_word_has_a_tag_of_its_own(tags: list[str]) -> None:
    """Their ends were read as outside, so a span was found too short, and those of one word were not found at all."""
    assert spans(tags) == {(0, 3, "a"), (3, 4, "b"), (5, 7, "a")}
    assert spans(["S-a", "S-a"]) == {(0, 1, "a"), (1, 2, "a")}
    assert spans(["E-a", "E-a", "I-a", "E-b"]) == {
        (0, 1, "a"),
        (1, 2, "a"),
        (2, 3, "a"),
        (3, 4, "b"),
    }


def test_half_a_span_is_no_span() -> None:
    figures, sure = span_metrics([["B-a", "O", "B-b"]], [["B-a", "I-a", "B-b"]])
    assert figures["span_f1"] == pytest.approx(0.5)
    assert figures["tag_accuracy"] == pytest.approx(2 / 3)
    assert sure["span_f1"] == (0.5, 0.5)  # of one row there is one choice


def test_a_span_f1_is_surer_of_more_rows() -> None:
    right, wrong = ["B-a", "O"], ["O", "O"]
    widths = []
    for times in (5, 50):
        figures, sure = span_metrics([right, wrong] * times, [right, right] * times)
        low, high = sure["span_f1"]
        assert figures["span_f1"] == pytest.approx(2 / 3)
        assert low < 2 / 3 < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_sentence_without_spans_tagged_so_has_no_span_f1() -> None:
    assert span_metrics([["O"]], [["O"]])[0]["span_f1"] == 0


def test_a_sum_is_judged_by_its_last_number() -> None:
    assert number("3 and 4 make 1,007.0", "A: 1007") == 1
    assert number("it is 7", "8") == 0
    assert number("none", "8") == 0


# What is wrong, and said so.


def test_a_label_that_only_held_out_rows_have(learn: Callable[..., Result]) -> None:
    odd = [{"text": f"odd {i}", "label": f"odd-{i}"} for i in range(12)]
    with pytest.raises(DataError, match="no training row has"):
        learn("classification", colours(40) + odd)


def test_the_accuracy_of_dpos_implicit_reward_is_that_of_a_naive_loop(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path
) -> None:
    """Over the log of model over reference (Rafailov et al. 2023): a preference that turns no order is seen."""
    from peft import PeftModel

    write_rows(rows("polite")[:60])
    recipe = tiny_recipe(
        objective="dpo",
        data={"splits": {"validation": 0.0, "test": 0.3}},
        evaluation={"max_new_tokens": None, "max_rows": 12},
        training={"max_steps": 3, "device": "cpu"},
    )
    metrics = run(recipe, name="it", folder=tmp_path, output=tmp_path / "out").metrics
    prepared = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
    tokenizer: Any = prepared.base.tokenizer

    def log_odds(model: Any) -> list[float]:
        found = []
        for row in prepared.test:
            asked = tokenizer.apply_chat_template(row.record["prompt"], add_generation_prompt=True)
            sums = []
            for name in ("chosen", "rejected"):
                whole = row.record["prompt"] + row.record[name]
                ids = tokenizer.apply_chat_template(whole)["input_ids"]
                given = len(asked["input_ids"])
                with torch.inference_mode():
                    logs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
                sums.append(sum(logs[at - 1, ids[at]].item() for at in range(given, len(ids))))
            found.append(sums[0] - sums[1])
        return found

    bare = log_odds(prepared.base.model)
    adapted = log_odds(PeftModel.from_pretrained(prepared.base.model, tmp_path / "out").eval())
    gains = [a > b for a, b in zip(adapted, bare, strict=True)]
    assert metrics["test_reward_accuracy"] == pytest.approx(sum(gains) / len(gains))
    assert metrics["base_test_reward_accuracy"] == 0.5


def test_labels_that_differ_in_case_only(learn: Callable[..., Result]) -> None:
    """They were two outputs of the head and one row of the confusion."""
    data = [{"text": f"paint {i}", "label": ["Warm", "warm", "cold"][i % 3]} for i in range(60)]
    with pytest.raises(DataError, match=r"'Warm' .* and 'warm' .* differ in case"):
        learn("classification", data)


def test_few_scored_rows_of_one_label(learn: Callable[..., Result]) -> None:
    """The area under the curve was NaN."""
    with pytest.raises(DataError, match=r"scored test rows are good answers.*max_rows"):
        learn("kto", evaluation={"max_new_tokens": None, "max_rows": 1})


def test_one_label_alone(learn: Callable[..., Result]) -> None:
    with pytest.raises(DataError, match="nothing can be told apart"):
        learn("classification", [{"text": f"a {i}", "label": "same"} for i in range(40)])


@pytest.mark.parametrize(
    ("objective", "row", "complaint"),
    [
        ("classification", {"text": "a", "label": None}, "label must be one name"),
        ("tokens", {"words": ["a", "b"], "tags": ["O"]}, "2 words and 1 tags"),
        ("extraction", {"question": "a", "context": "b", "answer": "c"}, "does not stand in"),
        ("extraction", {"question": "a", "context": "b", "answer": []}, "no answer, as SQuAD 2"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b"}, "nothing is preferred"),
        ("dpo", {"prompt": "a", "answer": "b"}, "fit no format"),
        ("kto", {"prompt": "a", "completion": "b", "label": "maybe"}, "true or false"),
    ],
)
def test_a_row_that_makes_no_sense(
    learn: Callable[..., Result], objective: str, row: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(DataError, match=complaint):
        learn(objective, [row] * 3)


def test_answers_that_do_not_fill_their_groups(learn: Callable[..., Result]) -> None:
    sums = [{"prompt": f"{i} and 1", "answer": f"{i + 1}"} for i in range(30)]
    with pytest.raises(RecipeError, match=r"no multiple of reinforcement\.generations = 3"):
        learn("grpo", sums, reinforcement={"reward": "contains", "generations": 3})


@pytest.mark.parametrize("reward", ["unheard-of", "missing.py:it", "brief.py:other"])
def test_a_reward_that_is_not_there(tmp_path: Path, reward: str) -> None:
    (tmp_path / "brief.py").write_text("def brief(*row): return 0")
    with pytest.raises(RecipeError, match=r"reinforcement\.reward"):
        find_reward(reward, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("return float('nan')", "gave nan for the answer 'b'"),
        ("return 1 / 0", "failed for the answer 'b': ZeroDivisionError: division by zero"),
        ("return None", "failed for the answer 'b': TypeError"),
    ],
)
def test_a_reward_that_is_no_number(tmp_path: Path, body: str, part: str) -> None:
    """It made every figure NaN, which no `require` noticed."""
    (tmp_path / "mine.py").write_text(f"def mine(prompt, said, answer): {body}")
    reward = find_reward("mine.py:mine", tmp_path, "cpu", key="evaluation.reward")
    with pytest.raises(RecipeError, match=r"^evaluation\.reward: mine of ") as caught:
        reward.judge(["a"], ["b"], ["c"])
    assert part in caught.value.message


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("3-7", 7),
        ("it is -7", -7),
        ("x=-7.5", -7.5),
        ("(-7)", -7),
        ("10 - 3 = 7", 7),
        ("1,000", 1000),
    ],
)
def test_the_number_at_the_end(said: str, right: float) -> None:
    """The dash between two numbers was a minus."""
    assert number(said, f"#### {right}") == 1.0


def test_what_is_left_once_long_rows_are_out_is_looked_at_again(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path
) -> None:
    """Of judged answers one kind was left, whose figure is NaN, and `require` let it pass; a label was tested that
    nobody had learnt."""

    def seen(objective: str, learnt: list[dict[str, Any]], tested: list[dict[str, Any]]) -> None:
        write_rows(learnt, "train.jsonl")
        write_rows(tested, "test.jsonl")
        named = {"path": None, "train": "train.jsonl", "test": "test.jsonl"}
        data = named | {"unfit": "skip", "splits": {"validation": 0.0}}
        recipe = tiny_recipe(objective=objective, data=data, evaluation={"max_new_tokens": None})
        look(recipe, "it", tmp_path, Silent())

    judged = [
        {"prompt": f"say {i}", "completion": "no" * (1 + 80 * (i % 2)), "label": i % 2 == 0}
        for i in range(40)
    ]
    with pytest.raises(DataError, match="all 10 training rows are good answers"):
        seen("kto", judged[:20], judged[20:])
    long = [{"text": f"long {i} " * 60, "label": "odd"} for i in range(3)]
    odd = {"text": "short", "label": "odd"}
    with pytest.raises(DataError, match="a label that no training row has"):
        seen("classification", colours(20) + long, [*colours(30)[20:], odd])
    tagged = [
        {"words": row["text"].split(), "tags": [row["label"], "O", "O"]} for row in colours(30)
    ]
    with pytest.raises(
        DataError, match=r"a label that no training row has \(.*: 'odd'\)\. Add[^;]*$"
    ):
        seen(
            "tokens",
            [*tagged[:20], {"words": ["long"] * 300, "tags": ["odd"] * 300}],
            [*tagged[20:], {"words": ["short"], "tags": ["odd"]}],
        )


def test_judged_rows_are_mixed_by_the_seed(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path
) -> None:
    """They were read in the file's order, good ones first where it is sorted, whatever the seed."""
    write_rows([{"prompt": f"say {i}", "completion": "x", "label": i < 20} for i in range(40)])

    def order(seed: int) -> list[bool]:
        recipe = tiny_recipe(
            objective="kto",
            data={"splits": {"validation": 0.0, "test": 0.0}},
            evaluation={"max_new_tokens": None},
            training={"seed": seed},
        )
        made = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
        trainer = make_trainer(made, str(tmp_path / "scratch"), watched=False)
        return list(trainer.train_dataset["label"])

    first = order(1)
    assert first == order(1) != order(2)
    assert 3 < sum(first[:20]) < 17


@pytest.mark.parametrize("method", ["qlora", "bottleneck"])
@pytest.mark.parametrize(("objective", "start"), [("dpo", math.log(2)), ("kto", 0.5)])
def test_the_reference_is_the_base_that_is_trained(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path, method: str, objective: str, start: float
) -> None:
    """Beside bottlenecks, which are none of PEFT's, it was an unquantized copy: the loss began at 2.0, not ln 2."""
    write_rows(rows(DATA[objective])[:40])
    recipe = tiny_recipe(
        objective=objective,
        method=method,
        lora={} if method == "bottleneck" else {"rank": 4},
        quantization={"type": "nf4"},
        preference={"beta": 1.0},
        data={"splits": {"validation": 0.0, "test": 0.0}},
        evaluation={"max_new_tokens": None},
    )
    made = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
    trainer = make_trainer(made, str(tmp_path / "scratch"), watched=False)
    trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss = float(trainer.compute_loss(trainer.model, batch))
    assert loss == pytest.approx(start, abs=1e-3)


@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_nothing_learnt_is_no_way_from_the_base(
    learn: Callable[..., Result], objective: str
) -> None:
    """Beside bottlenecks a KL divergence of 0.04 was reported before anything was learnt."""
    result = learn(
        objective,
        [row | {"answer": "I"} for row in rows("brief")[:30]],
        method="bottleneck",
        lora={},
        quantization={"type": "nf4"},
        training={"max_steps": 1, "learning_rate": 1e-9},
        reinforcement={"reward": "contains", "max_new_tokens": 4, "generations": 4},
    )
    assert result.metrics["train_kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("objective", ["orpo", "reward"])
def test_dropout_that_is_asked_for_is_there(
    tiny_recipe: Tiny, write_rows: Write, tmp_path: Path, objective: str
) -> None:
    """TRL switched it off, and what was written said otherwise."""
    write_rows(rows(DATA[objective])[:40])
    recipe = tiny_recipe(
        objective=objective,
        lora={"rank": 4, "dropout": 0.3},
        data={"splits": {"validation": 0.0, "test": 0.0}},
        evaluation={"max_new_tokens": None},
    )
    made = prepare(recipe, "it", prepare_data(recipe, tmp_path, Silent()))
    trainer = make_trainer(made, str(tmp_path / "scratch"), watched=False)
    shares = {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)}
    assert 0.3 in shares


def test_sections_and_figures_of_another_objective(tiny_recipe: Tiny, write_rows: Write) -> None:
    for sections in (
        {"preference": {"beta": 0.2}},
        {"objective": "grpo"},
        {"objective": "reward", "method": "pissa"},
        {"objective": "classification", "method": "bottleneck", "lora": {}},  # lost its head
        {"objective": "classification", "method": "prompt_tuning", "lora": {}},  # is not served
    ):
        with pytest.raises(RecipeError):
            tiny_recipe(**sections)


def test_virtual_tokens_that_orpo_has_no_labels_for(tiny_recipe: Tiny) -> None:
    """It broke off in the first step: `Expected input batch_size to match target batch_size`."""
    quiet = {"lora": {"rank": 16}, "evaluation": {"max_new_tokens": None}}
    for method in ("prompt_tuning", "p_tuning"):
        with pytest.raises(RecipeError, match="use prefix_tuning"):
            tiny_recipe(objective="orpo", method=method, **quiet)


@pytest.mark.parametrize("objective", ["classification", "tokens", "dpo", "kto", "orpo", "reward"])
def test_rows_are_shown_as_they_are_learnt(
    objective: str, tiny_recipe: Tiny, write_rows: Write, tmp_path: Path
) -> None:
    write_rows(colours(60) if objective == "classification" else rows(DATA[objective])[:60])
    recipe = tiny_recipe(objective=objective, method="qlora", evaluation={"max_new_tokens": None})
    shown = look(recipe, "it", tmp_path, Silent(), rows=2).rows
    assert len(shown) == 2
    assert all(any(learnt for _, learnt in row) for row in shown)


def test_what_a_text_is_judged_as_is_shown_in_words(
    tiny_recipe: Tiny, encoder_folder: Path, write_rows: Write, tmp_path: Path
) -> None:
    """Once the numbers that labels and places have within the model."""

    def first(
        objective: str, data: list[dict[str, Any]], **sections: Any
    ) -> list[tuple[str, bool]]:
        write_rows(data)
        recipe = tiny_recipe(
            objective=objective,
            data={"splits": {"validation": 0.0}},
            evaluation={"max_new_tokens": None},
            **sections,
        )
        [row] = look(recipe, "it", tmp_path, Silent(), rows=1).rows
        return row

    def learnt(*what: Any, **sections: Any) -> str:
        return "".join(text for text, is_learnt in first(*what, **sections) if is_learnt)

    def shown(*what: Any) -> str:
        return "".join(f"[[{text}]]" if is_learnt else text for text, is_learnt in first(*what))

    assert learnt("classification", colours(60)) in ("warm", "cold")
    assert set(learnt("tokens", rows("slots")[:60]).split()) <= {
        tag for row in rows("slots")[:60] for tag in row["tags"]
    }
    # Both answers of a pair were shown alike, and beside a judged one stood another row's.
    assert shown("dpo", rows("polite")[:60]).endswith("]] ← rejected ")
    assert shown("kto", rows("judged")[:60]).count("[[") == 1
    assert shown("kto", rows("judged")[:60]).endswith(("]] ← good ", "]] ← bad "))
    passages = rows("passage")[:60]
    found = learnt("extraction", passages, base=str(encoder_folder))
    assert found in {row["answer"].lower() for row in passages}


@pytest.mark.parametrize(("on", "expected"), [("decoder", [2, 5]), ("encoder", [1, 4])])
def test_the_token_that_speaks_for_a_word_has_seen_all_of_it(
    base_folder: Path, encoder_folder: Path, on: str, expected: list[int]
) -> None:
    """A decoder's first token of `19:30` was asked for the tag of a word of which it had seen the `1`."""
    base = load_base(str(base_folder if on == "decoder" else encoder_folder), head=TAGS)
    row = Example("row 1", {"words": ["red", "it"], "tags": ["O", "O"]}, "", "", "")
    # A byte is a token there: r e d _ i t. Here: [CLS] r ##e ##d it [SEP].
    assert find("tokens").inputs(base, row)["places"] == expected


def test_a_word_of_which_the_tokenizer_keeps_nothing(encoder_folder: Path) -> None:
    """In training its tag was put in place of the tag of the word before it."""
    base = load_base(str(encoder_folder), head=TAGS)
    tokens: Any = find("tokens")
    row = Example(
        "row 1", {"words": ["red", "\u200b", "it"], "tags": ["B-a", "O", "O"]}, "", "", ""
    )
    assert tokens.inputs(base, row)["places"] == [1, 1, 4]
    asked = {at: tag for at, tag in enumerate(tokens._labelled(base, row)["labels"]) if tag != -100}
    assert asked == {1: base.model.config.label2id["B-a"], 4: base.model.config.label2id["O"]}
    nothing = Example("row 2", {"words": ["\u200b"], "tags": ["O"]}, "", "", "")
    with pytest.raises(DataError, match="row 2: the base's tokenizer leaves nothing of the words"):
        tokens._labelled(base, nothing)


def test_a_figure_that_the_objective_has_not(learn: Callable[..., Result]) -> None:
    with pytest.raises(RecipeError, match="choose of preference_accuracy"):
        learn("dpo", evaluation={"metric": "accuracy", "max_new_tokens": None})
    with pytest.raises(RecipeError, match=r"name an evaluation\.reward"):
        learn("dpo", require={"win_rate": {"min": 0.6}})


# The examples.


def test_the_data_sets_are_what_the_script_makes(tmp_path: Path) -> None:
    write(tmp_path)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(made) == len(TASKS)
    assert {name: (FOLDER / name).read_bytes() for name in made} == made


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "sft"])
def test_every_objective_has_an_example_that_reads(objective: str) -> None:
    recipe = read_recipe(FOLDER / f"{objective}.yaml")
    assert recipe.objective == objective
    assert recipe.description
    data = load(recipe.data, FOLDER, recipe.training.seed, OBJECTIVES[objective])
    assert len(data.train) > 100
    assert len(data.test) > 10
    assert find(objective).metrics
    assert {o for kinds in OBJECTIVE_SECTIONS.values() for o in kinds} <= set(OBJECTIVES)
