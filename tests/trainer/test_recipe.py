"""A recipe is strict: what it does not know, it refuses, and says where and what was meant."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from lorry_trainer.errors import RecipeError
from lorry_trainer.habits import table
from lorry_trainer.recipe import Recipe
from lorry_trainer.recipe_doc import document
from lorry_trainer.recipe_file import all_places, parse_recipe, read_recipe

MINIMAL = "data:\n  path: rows.jsonl\n"


def complaint(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_one_line_is_a_recipe() -> None:
    recipe = parse_recipe(MINIMAL)
    assert (recipe.base, recipe.method, recipe.lora.rank) == ("lorry-tiny", "qlora", 16)


def test_an_unknown_key_is_named_with_its_line_and_near_matches() -> None:
    text = MINIMAL + "training:\n  learning_rte: 0.1\n"
    assert complaint(text) == (
        "r.yaml:4: training.learning_rte: unknown key; did you mean learning_rate?"
    )


def test_a_key_in_the_wrong_section_is_told_where_it_belongs() -> None:
    assert "did you mean lora.rank?" in complaint(MINIMAL + "rank: 8\n")


def test_an_unknown_key_without_a_near_match_lists_what_is_known() -> None:
    assert "known here: rank, alpha, dropout" in complaint(MINIMAL + "lora:\n  zzz: 1\n")


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("lora_r: 8", "r.yaml:3: lora_r: unknown key; here that is `lora.rank`"),
        ("lora: {r: 8}", "lora.r: unknown key; here that is `lora.rank`"),
        ("load_in_4bit: true", "here that is `method: qlora`"),
        ("micro_batch_size: 2", "here that is `training.batch_size`"),
        ("training: {num_train_epochs: 2}", "here that is `training.epochs`"),
        ("sequence_len: 2048", "here that is `data.max_length`"),
        ("bf16: auto", "bf16: unknown key; not needed: bfloat16 on CUDA"),
        ("learning_rate: 1e-3", "did you mean training.learning_rate?"),
    ],
)
def test_names_of_trl_and_axolotl_are_told_what_they_are_called_here(line: str, part: str) -> None:
    """Most were told to be `lora`, or got the list of all sections."""
    assert part in complaint(MINIMAL + line + "\n")


def test_the_table_of_habits_is_the_docs_and_names_keys_that_there_are() -> None:
    page = Path(__file__).parents[2] / "docs" / "training.md"
    assert table() in page.read_text(encoding="utf-8"), "run lorry_trainer.habits again"
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", table())
    assert len(named) > 25
    assert not set(named) - set(all_places(Recipe))


def test_every_fault_is_reported_at_once() -> None:
    said = complaint("data: {path: a.jsonl}\nlora: {rank: 0, wat: 1}\nevaluation: {metric: luck}\n")
    assert "lora.rank" in said
    assert "lora.wat" in said
    assert "evaluation.metric" in said


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("lora: {rank: 0}", "lora.rank: input should be greater than or equal to 1 (got 0)"),
        ('lora: {rank: "8"}', "lora.rank: input should be a valid integer (got '8')"),
        ("lora: {rank: true}", "lora.rank: input should be a valid integer"),
        ("lora: {rank: 8.5}", "lora.rank"),
        ("lora: {target_modules: []}", "lora.target_modules"),
        ("lora: {target_modules: all}", "lora.target_modules"),
        ("training: {learning_rate: .nan}", "training.learning_rate"),
        ("training: {learning_rate: 50}", "less than or equal to 1"),
        ("training: {epochs: 1, max_steps: 5}", "not both"),
        ("method: lorax", "method: input should be 'lora', 'qlora'"),
        ("method: lora\nquantization: {}", "`method: lora` holds the base as none, not nf4"),
        ("method: loftq\nquantization: {type: none}", "holds the base as nf4, not none"),
        (
            "method: p_tuning\nobjective: grpo\nreinforcement: {reward: number}",
            "padding would stand between its tokens and a prompt",
        ),
        ("training: {seed: 4294967296}", "training.seed: input should be less than 4294967296"),
        ("method: pissa\nlora: {modules_to_save: [norm]}", "`lora.modules_to_save` would be lost"),
        ("virtual: {tokens: 3}", "`virtual` belongs to prefix_tuning, prompt_tuning, p_tuning"),
        ("evaluation: 3", "evaluation"),
    ],
)
def test_wrong_values_are_refused(line: str, part: str) -> None:
    assert part in complaint(MINIMAL + line + "\n")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "not nothing"),
        ("- a\n", "not a list"),
        ("data: [unclosed", "is not YAML"),
        ("base: x\n", "data: missing"),
        ("data: {}\n", "exactly one of the two"),
        ("data: {path: a, train: b}\n", "exactly one of the two"),
        ("data: {path: a, splits: {validation: 0.5, test: 0.5}}\n", "leave no rows"),
        ("data: {path: a, template: hello}\n", "must contain {instruction}"),
        ("data: {path: 2024-01-01}\n", "put it in quotes"),
        # These were accepted, and did something else than what was meant or nothing.
        (
            "data: {path: a, template: '{instruction} {contxt}'}\n",
            "a template's places are {instruction} and {context}, and '{instruction} {contxt}' has {contxt}",
        ),
        ("data: {path: a, augment: {templates: ['{question} {x}']}}\n", "has {x}; correct it"),
        ("data: {path: a, labels: [A, b, a]}\n", "`labels` 'A' and 'a' are one label"),
        ("data: {path: ''}\n", "data.path: string should have at least 1 character"),
        (MINIMAL + "base: a\nbase: b\n", "r.yaml:4: base: given twice"),
    ],
)
def test_texts_that_are_no_recipe(text: str, part: str) -> None:
    assert part in complaint(text)


@pytest.mark.parametrize(
    ("lines", "part"),
    [
        ("method: ia3\nlora: {rank: 64}", "`lora` belongs to lora, qlora"),
        ("method: p_tuning\nlora: {target_modules: [q_proj]}", "and the method is p_tuning"),
        ("objective: classification\ntraining: {packing: true}", "`training.packing` belongs to"),
        (
            "objective: dpo\ntraining: {group_by_length: true}",
            "`training.group_by_length` belongs to",
        ),
        ("objective: dpo\nevaluation: {shots: 2}", "`evaluation.shots` belongs to sft"),
        ("objective: tokens\nevaluation: {general: a.txt}", "`evaluation.general` belongs to sft"),
        ("objective: reward\nevaluation: {reward: number}", "`evaluation.reward` belongs to sft"),
        ("objective: tokens\nevaluation: {max_new_tokens: 5}", "and the objective is tokens"),
        ("objective: dpo\nevaluation: {max_new_tokens: 5}", "only where `evaluation.reward` is"),
        (
            "objective: grpo\nreinforcement: {reward: number}\ntraining: {early_stopping_patience: 2}",
            "`training.early_stopping_patience` belongs to",
        ),
        ("method: p_tuning\nvirtual: {text: hi}", "`virtual.text` belongs to prompt_tuning"),
        (
            "method: prompt_tuning\nvirtual: {encoder_hidden_size: 8}",
            "`virtual.encoder_hidden_size` belongs to p_tuning, prefix_tuning",
        ),
        ("objective: kto\ntraining: {group_by_length: true}", "`training.group_by_length` belongs"),
        ("method: full\nlora: {alpha: 8}", "`lora.alpha` belongs to lora, qlora"),
        ("method: full\nlora: {dropout: 0.1}", "`lora.dropout` belongs to lora, qlora"),
        ("method: full\nlora: {dora: true}", "`lora.dora` belongs to lora, qlora"),
        # DPO's and GRPO's reference was disturbed by noise of its own, or dropout was switched off without a word.
        ("objective: dpo\ntraining: {neftune_alpha: 5}", "`training.neftune_alpha` belongs to sft"),
        ("objective: kto\nlora: {dropout: 0.1}", "`lora.dropout` belongs to sft"),
        # Packed rows saw each other.
        ("method: prefix_tuning\ntraining: {packing: true}", "`training.packing` belongs to lora"),
        # What was published was not what was trained.
        ("method: pissa\nlora: {dora: true}", "`lora.dora` belongs to lora, qlora"),
        ("training: {schedule: constant, warmup_ratio: 0.2}", "take constant_with_warmup"),
        ("method: lora\nquantization: {type: none, double: false}", "the scales of nf4"),
        ("method: dora\nlora: {dora: false}", "which is false"),
        ("method: rslora\nlora: {rslora: false}", "which is false"),
    ],
)
def test_a_key_that_would_have_no_effect_is_refused(lines: str, part: str) -> None:
    """They were read and passed over, or broke the run where it was scored."""
    assert part in complaint(MINIMAL + lines + "\n")


def test_an_exponent_without_a_dot_is_a_number() -> None:
    """YAML 1.1 reads 2e-3 as text, and everyone writes it."""
    assert parse_recipe(MINIMAL + "training: {learning_rate: 2e-3}").training.learning_rate == 2e-3


def test_a_list_of_targets() -> None:
    recipe = parse_recipe(MINIMAL + "lora: {target_modules: [q_proj, v_proj]}")
    assert recipe.lora.target_modules == ("q_proj", "v_proj")


def test_a_missing_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*none\.yaml"):
        read_recipe(tmp_path / "none.yaml")


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_recipe(MINIMAL).base = "other"  # type: ignore[misc]


def test_the_document_is_made_from_the_fields() -> None:
    import lorry_trainer

    shipped = Path(lorry_trainer.__file__).parent / "RECIPE.md"
    assert shipped.read_text(encoding="utf-8") == document(), "run lorry_trainer.recipe_doc again"


def test_every_field_has_a_meaning() -> None:
    lines = [line for line in document().splitlines() if line.startswith("| `")]
    assert len(lines) > 40
    assert not [line for line in lines if line.endswith("| None |")]
    assert all(name in document() for name in Recipe.model_fields)
