"""Figures, their intervals and each label's own, held against scikit-learn; the gate; solved examples in a prompt."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from lorry_trainer.bootstrap import interval, of_ratio
from lorry_trainer.errors import RecipeError
from lorry_trainer.formats.contract import Example
from lorry_trainer.gate import refuse_unreachable, shortfalls
from lorry_trainer.judge import OTHER, judge
from lorry_trainer.metrics import wins
from lorry_trainer.recipe_file import parse_recipe
from lorry_trainer.shots import own_answer, with_shots

LABELS = frozenset({"a", "b", "c"})


def test_figures_of_labels_are_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    chance = np.random.default_rng(0)
    expected = chance.choice(["a", "b", "c"], 200).tolist()
    answers = [e if chance.random() < 0.6 else chance.choice(["A", "b", "odd"]) for e in expected]
    found = judge(answers, expected, LABELS)
    seen = [a.lower() if a.lower() in LABELS else OTHER for a in answers]
    p, r, f, rows = precision_recall_fscore_support(
        expected, seen, labels=["a", "b", "c"], zero_division=0
    )
    for i, name in enumerate("abc"):
        own = found.per_label[name]
        assert (own.precision, own.recall, own.f1) == pytest.approx((p[i], r[i], f[i]))
        assert own.rows == rows[i]
    assert found.metrics["f1"] == pytest.approx(f.mean())
    assert found.metrics["precision"] == pytest.approx(p.mean())
    assert found.metrics["recall"] == pytest.approx(r.mean())
    assert found.confusion == confusion_matrix(expected, seen, labels=found.labels).tolist()
    assert "bleu" not in found.metrics


def test_intervals_hold_the_figure_and_narrow_with_rows() -> None:
    few = judge(["a", "b"] * 10, ["a"] * 20, LABELS)
    many = judge(["a", "b"] * 500, ["a"] * 1000, LABELS)
    for found in (few, many):
        low, high = found.intervals["exact_match"]
        assert low < 0.5 < high
    # The normal approximation, sqrt(p (1 - p) / n), is good at a thousand rows.
    low, high = many.intervals["exact_match"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 1000) ** 0.5, rel=0.15)
    assert high - low < few.intervals["exact_match"][1] - few.intervals["exact_match"][0]
    assert few == judge(["a", "b"] * 10, ["a"] * 20, LABELS)


def test_figures_of_a_whole_have_intervals_too() -> None:
    """BLEU and chrF had none."""
    answers = [f"the {word} sat on the mat" for word in ("cat", "dog", "cow", "cat") * 10]
    found = judge(answers, ["the cat sat on the mat"] * 40)
    assert found.intervals.keys() == found.metrics.keys()
    for name in ("bleu", "chrf"):
        low, high = found.intervals[name]
        assert low < found.metrics[name] < high


def test_the_interval_of_a_sum_over_a_sum() -> None:
    """Held against the delta method, for a sum over a sum: se² = Σ(total - ratio · count)² / (Σ count)²."""
    chance = np.random.default_rng(1)
    counts = chance.integers(1, 20, 2000)
    totals = counts * chance.gamma(2.0, 0.5, 2000)
    low, high = of_ratio(totals, counts, seed=0)
    ratio = totals.sum() / counts.sum()
    error = np.sqrt(((totals - ratio * counts) ** 2).sum()) / counts.sum()
    assert low < ratio < high
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_strata_keep_their_rows() -> None:
    kinds = ["rare", *["usual"] * 30]
    seen = []
    interval(lambda rows: float(seen.append((rows == 0).sum()) or 0), 31, 0, strata=kinds)
    assert set(seen) == {1}


def test_ties_are_won_by_half() -> None:
    assert wins([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]) == [0.5, 0.0, 1.0]


def test_figures_of_free_text() -> None:
    same = judge(["the cat sat on the mat"], ["the cat sat on the mat"])
    for name in ("exact_match", "rouge_l", "bleu", "chrf"):
        assert same.metrics[name] == pytest.approx(1)
    near = judge(["the cat sat on a mat"], ["the cat sat on the mat"]).metrics
    assert near["exact_match"] == 0
    assert near["rouge_l"] == pytest.approx(5 / 6)
    assert 0 < near["bleu"] < 1
    assert near["chrf"] > 0.5


def required(text: str, metrics: dict[str, float]) -> list[str]:
    recipe = parse_recipe(f"data: {{path: x}}\nrequire: {text}")
    return shortfalls(recipe.require, metrics)


def test_words_of_every_alphabet_count() -> None:
    """ROUGE-L of right answers was 0 where they had no Latin letters, and BLEU a little more than 1."""
    from rouge_score.rouge_scorer import RougeScorer

    right = ["привет, мир и все остальные", "καλημέρα"]
    metrics = judge(right, right).metrics
    assert {name: metrics[name] for name in ("rouge_l", "bleu", "chrf")} == {
        "rouge_l": 1.0,
        "bleu": 1.0,
        "chrf": 1.0,
    }
    said, wanted = "It's A_b 12-fold, I think.", "it s a b: 12 times I think"
    theirs = RougeScorer(["rougeL"]).score(wanted, said)["rougeL"].fmeasure
    assert judge([said], [wanted]).metrics["rouge_l"] == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{f1: {min: 0.8}}", []),
        ("{f1: {min: 0.9}}", ["f1 is 0.85, and at least 0.9 is required"]),
        ("{f1: {above_base: 0.7}}", []),
        ("{f1: {above_base: 0.8}}", ["f1 is 0.85, and 0.8 above the base's 0.1 is required"]),
        ("{perplexity: {max: 2}}", ["perplexity is 3, and at most 2 is allowed"]),
        ("{perplexity: {below_base: 5}}", []),
        ("{bleu: {min: 0.1}}", ["bleu was not measured"]),
    ],
)
def test_the_gate(text: str, said: list[str]) -> None:
    metrics = {
        "test_f1": 0.85,
        "base_test_f1": 0.1,
        "test_perplexity": 3.0,
        "base_test_perplexity": 9.0,
    }
    found = required(text, metrics)
    assert len(found) == len(said)
    assert all(got.startswith(wanted) for got, wanted in zip(found, said, strict=True))


@pytest.mark.parametrize("text", ["{f1: {min: 0.1}}", "{f1: {max: 0.9}}", "{f1: {above_base: 0}}"])
@pytest.mark.parametrize("name", ["test_f1", "base_test_f1"])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_passes_no_gate(text: str, name: str, odd: float) -> None:
    """Every comparison with NaN is false, so a version that had not been measured got its alias."""
    asks_base = "above_base" in text
    found = required(text, {"test_f1": 0.5, "base_test_f1": 0.1} | {name: odd})
    assert bool(found) == (name == "test_f1" or asks_base)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{f2: {min: 1}}", "r.yaml:2: require.f2"),
        ("{f1: {mni: 1}}", "require.f1.mni: unknown key; did you mean min?"),
        ("{f1: {}}", "give at least one of"),
        ("{f1: {min: 0.9, max: 0.1}}", "min 0.9 is above max 0.1"),
    ],
)
def test_a_requirement_that_cannot_be(text: str, part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"data: {{path: x}}\nrequire: {text}", "r.yaml")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{accuracy: {min: 90}}", "require.accuracy.min is 90, and accuracy lies between 0 and 1"),
        ("{f1: {max: -0.1}}", "require.f1.max is -0.1"),
        ("{win_rate: {above_base: 1.5}}", "require.win_rate.above_base is 1.5"),
        ("{f1: {min: 0, max: 1, above_base: -0.5}}", ""),
        ("{perplexity: {max: 20}, reward: {min: -3}, loss: {below_base: 2}}", ""),
    ],
)
def test_a_share_is_held_against_shares(text: str, part: str) -> None:
    """A gate in percent was taken in silence: no version ever passed it, or each did."""
    require = parse_recipe(f"data: {{path: x}}\nrequire: {text}").require
    if not part:
        refuse_unreachable(require)
        return
    with pytest.raises(RecipeError, match=re.escape(part)):
        refuse_unreachable(require)


def chat(question: str, answer: str) -> Example:
    prompt: list[dict[str, Any]] = [{"role": "user", "content": question}]
    return Example("p", {}, prompt, answer, question)


def test_solved_examples_stand_before_the_question_as_far_as_there_is_room() -> None:
    shown = [chat("1+1", "2"), chat("2+2", "4")]
    (row,) = with_shots([chat("3+3", "6")], shown, 100, len)
    assert [m["content"] for m in row.prompt] == ["1+1", "2", "2+2", "4", "3+3"]  # type: ignore[index]
    assert row.whole == [*row.prompt, {"role": "assistant", "content": "6"}]
    (less,) = with_shots([chat("3+3", "6")], shown, 3, len)
    assert [m["content"] for m in less.prompt] == ["1+1", "2", "3+3"]  # type: ignore[index]
    (none,) = with_shots([chat("3+3", "6")], shown, 1, len)
    assert none.prompt == chat("3+3", "6").prompt
    plain = [Example("p", {}, "Q: a A: ", "b", "k")]
    (text,) = with_shots([Example("p", {}, "Q: c A: ", "d", "l")], plain, 100, len)
    assert text.prompt == "Q: a A: b\n\nQ: c A: "
    assert text.whole == "Q: a A: b\n\nQ: c A: d"


@pytest.mark.parametrize(
    ("said", "wanted", "rouge"),
    [
        ("नमस्ते दुनिया", "नमस्ता दुनियों", 0),
        ("नमस्ते दुनिया", "नमस्ते दुनियों", 0.5),
        ("كِتَاب جديد", "كُتَّاب جديد", 0.5),
        ("我喜欢喝茶吗", "我喜欢喝茶吧", 5 / 6),
        ("東京へ行った", "東京へ行つた", 5 / 6),
        ("ภาษาไทย", "ภาษาไทง", 6 / 7),
        ("café", "cafe\u0301", 1),
    ],
)
def test_words_where_marks_or_no_blanks_are(said: str, wanted: str, rouge: float) -> None:
    """Marks were left out of words, so that other Hindi words were the same; and a Chinese answer with one character
    wrong was all wrong, as one word."""
    metrics = judge([said], [wanted]).metrics
    assert metrics["rouge_l"] == pytest.approx(rouge)
    assert metrics["token_f1"] == pytest.approx(rouge)


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("我喜欢喝茶，你呢？ok", "zh"),
        ("東京タワーへ行きました", "char"),
        ("one 茶 two words more", "13a"),
    ],
)
def test_bleu_is_sacrebleus_for_the_script(text: str, tokenizer: str) -> None:
    """A Chinese sentence was one token, so that BLEU was 0 or 1."""
    from sacrebleu.metrics import BLEU

    said = text[:-1] + "x"
    theirs = BLEU(effective_order=True, tokenize=tokenizer).corpus_score([said], [[text]]).score
    assert judge([said], [text]).metrics["bleu"] == pytest.approx(theirs / 100)
    assert theirs > 0


def test_figures_of_english_are_those_of_the_libraries() -> None:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU, CHRF

    chance = np.random.default_rng(2)
    parts = ["The", "cat's", "mat_2", "3.50", "e-mail,", "(sat)", "U.S.", "on\n", "--", "x;y"]
    texts = [" ".join(chance.choice(parts, 9)) for _ in range(80)]
    answers, expected = texts[:40], texts[40:]
    metrics = judge(answers, expected).metrics
    scorer = RougeScorer(["rougeL"])
    theirs = [scorer.score(e, a)["rougeL"].fmeasure for a, e in zip(answers, expected, strict=True)]
    assert metrics["rouge_l"] == pytest.approx(np.mean(theirs))
    for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
        whole = metric.corpus_score(answers, [expected]).score
        assert metrics[name] == pytest.approx(whole / 100)


def test_an_answer_ends_where_the_next_example_would_begin() -> None:
    """Nothing stopped a base that was shown plain examples: it answered right, went on with more of them, and had
    0."""
    shown = [Example("p", {}, "Q: a A:", " b", "k")]
    asked = Example("p", {}, "Q: c A:", " d", "l")
    (row,) = with_shots([asked], shown, 100, len)
    assert own_answer(row, "d\n\nQ: e A: f\n\nQ: g") == "d"
    assert (
        own_answer(asked, "d\n\nQ: e A: f") == "d\n\nQ: e A: f"
    )  # as it is asked without examples
    (talk,) = with_shots([chat("3+3", "6")], [chat("1+1", "2")], 100, len)
    assert own_answer(talk, "two\n\nparagraphs") == "two\n\nparagraphs"


def test_an_answer_of_several_paragraphs_does_not_end_within_itself() -> None:
    """A blank line ends no answer where the examples have some in theirs."""
    shown = [Example("p", {}, "Q: a A:", " one\n\ntwo", "k")]
    (row,) = with_shots([Example("p", {}, "Q: c A:", " d", "l")], shown, 100, len)
    assert row.prompt == "Q: a A: one\n\ntwo\n\n\nQ: c A:"
    assert own_answer(row, "three\n\nfour\n\n\nQ: e") == "three\n\nfour"
