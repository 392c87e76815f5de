"""The section that says from what: files, columns, splits."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from lorry_trainer.metrics import normalised
from lorry_trainer.recipe.section import Section, Share


def _refuse_other_places(template: str, known: tuple[str, ...]) -> None:
    """Raise ValueError where a name in braces would stand in every prompt as it is."""
    others = [name for name in re.findall(r"\{(\w+)\}", template) if name not in known]
    if others:
        places = " and ".join(f"{{{name}}}" for name in known)
        raise ValueError(
            f"a template's places are {places}, and {template!r} has {{{others[0]}}}; correct it, or write it without "
            "braces"
        )


def _refuse_alike(labels: tuple[str, ...]) -> None:
    """Raise ValueError where two are one as answers are compared."""
    seen: dict[str, str] = {}
    for label in labels:
        folded = normalised(label)
        if folded in seen:
            raise ValueError(
                f"`labels` {seen[folded]!r} and {label!r} are one label: case and blank space make no other; write "
                "each once"
            )
        seen[folded] = label


class Columns(Section):
    """The names that the data uses, where they are not the names that a format expects."""

    instruction: str | None = Field(default=None, description="Column that holds what is asked.")
    context: str | None = Field(
        default=None, description="Column that holds what the instruction is about; may be absent."
    )
    output: str | None = Field(
        default=None, description="Column that holds the answer to an instruction."
    )
    messages: str | None = Field(
        default=None, description="Column that holds a list of chat messages."
    )
    prompt: str | None = Field(default=None, description="Column that holds a prompt.")
    completion: str | None = Field(
        default=None, description="Column that holds what follows a prompt."
    )
    text: str | None = Field(default=None, description="Column that holds plain text.")
    label: str | None = Field(
        default=None, description="Column that holds a label, or whether an answer is good."
    )
    system: str | None = Field(
        default=None,
        description="Column that holds a system message for its row; may be absent.",
    )
    pair: str | None = Field(
        default=None, description="Column that holds a second text; may be absent."
    )
    words: str | None = Field(default=None, description="Column that holds a list of words.")
    tags: str | None = Field(default=None, description="Column that holds a tag for each word.")
    question: str | None = Field(
        default=None, description="Column that holds a question about a context."
    )
    answer: str | None = Field(default=None, description="Column that holds the right answer.")
    start: str | None = Field(
        default=None,
        description="Column that holds where the answer begins in the context; may be absent.",
    )
    chosen: str | None = Field(default=None, description="Column that holds the better answer.")
    rejected: str | None = Field(default=None, description="Column that holds the worse answer.")
    source: str | None = Field(default=None, description="Column that holds a text to translate.")
    target: str | None = Field(default=None, description="Column that holds its translation.")


class Splits(Section):
    """Shares of the rows that are held out, for each split that has no file of its own."""

    validation: Share = Field(
        default=0.1,
        description="Rows that steer training (early stopping) and are not learnt from.",
    )
    test: Share = Field(
        default=0.1, description="Rows for the score before and after; nothing else sees them."
    )

    stratify: bool | None = Field(
        default=None,
        description="Give each label its share in every split. Left out: where the answers are labels. Without it a "
        "row never moves when others are added.",
    )

    @model_validator(mode="after")
    def _leave_some(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError(
                "validation and test together leave no rows to train on; their sum must be below 1"
            )
        return self


class Augment(Section):
    """More training rows, made of those that are there; validation and test rows are never touched."""

    copies: int = Field(
        default=1, ge=1, le=20, description="Variants of each training row, at most."
    )
    templates: tuple[str, ...] = Field(
        default=(),
        description="Other words around a question: `Please tell me: {question}`; one is drawn per variant.",
    )
    typos: Share = Field(
        default=0.0,
        description="Share of a question's words with two letters exchanged: words of four letters and more that the "
        "answer does not have.",
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.templates and not self.typos:
            raise ValueError("give `templates` or `typos`, or leave `augment` out")
        if wrong := [t for t in self.templates if "{question}" not in t]:
            raise ValueError(f"a template must contain {{question}}, and {wrong[0]!r} does not")
        for template in self.templates:
            _refuse_other_places(template, ("question",))
        return self


class Data(Section):
    """The examples: JSON lines, JSON, CSV or Parquet, also packed by gzip, or all files that a pattern fits
    (`rows-*.jsonl`); a folder of such files as the hub lays them out, or one that `save_to_disk` wrote; or a data set
    on the hub (`hub:org/name`). A relative path starts at the recipe's folder. Usual names of columns are found, and
    `--check` says which ones were taken; a column within an object is named with a dot (`data.question`)."""

    path: str | None = Field(
        default=None,
        min_length=1,
        description="One file, folder or data set, split by `splits` where it has no splits. Either this or `train`.",
    )
    subset: str | None = Field(default=None, description="Which configuration of a hub data set.")
    revision: str | None = Field(default=None, description="Which revision of a hub data set.")
    train_split: str | None = Field(
        default=None,
        description="Which split of a data set is learnt. Left out: the one of the name `train`.",
    )
    train: str | None = Field(
        default=None,
        min_length=1,
        description="File of training rows, where other splits have files of their own.",
    )
    validation: str | None = Field(
        default=None,
        min_length=1,
        description="File of validation rows. Without it, a share of the training file.",
    )
    test: str | None = Field(
        default=None,
        min_length=1,
        description="File of test rows. Without it, a share of the training file.",
    )
    format: Literal[
        "auto",
        "instruction",
        "messages",
        "prompt_completion",
        "text",
        "translation",
        "labelled",
        "tagged",
        "span",
        "preference",
        "unpaired",
        "question",
    ] = Field(
        default="auto",
        description="`instruction`: `instruction`, optional `context`, `output`, put into the base's chat template. "
        "`messages`: a chat; the assistant's words alone are learnt. `prompt_completion`: `prompt` and `completion`, "
        "plain text as it stands, or lists of messages. `text`: plain text, all of it learnt. "
        "`translation`: `source` and `target`. `labelled`: `text`, optional `pair`, `label`. `tagged`: `words`, "
        "`tags`. `span`: `question`, `context`, `answer`, optional `start`. `preference`: `prompt`, `chosen`, "
        "`rejected`. `unpaired`: `prompt`, `completion`, `label` (true or false). `question`: `prompt`, "
        "optional `answer`. `auto`: found from the columns.",
    )
    columns: Columns = Field(
        default_factory=Columns, description="Column names that differ from the format's."
    )
    system: str | None = Field(
        default=None,
        min_length=1,
        description="System message put before every chat that has none.",
    )
    template: str = Field(
        default="{instruction}\n\n{context}",
        description="How `instruction` rows become a user's message. Blank space left by an empty context is removed.",
    )
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Longest row in tokens; a longer one is an error. Left out: what the base can take, or 1024 "
        "where that is less and rows are packed.",
    )
    labels: Literal["auto", "any"] | tuple[str, ...] = Field(
        default="auto",
        min_length=1,
        description="The only answers there are; a row with another is an error, and so is a held-out label that no "
        "training row has. `auto`: found, where answers are few and short. `any`: the answers are no labels. Where "
        "the data has numbers for labels, each stands for the name at its place in the list, from 0.",
    )
    unfit: Literal["refuse", "skip"] = Field(
        default="refuse",
        description="What becomes of rows that cannot be learnt, empty ones or too long ones: `refuse`: an error that "
        "names them. `skip`: they are left out, and told.",
    )
    deduplicate: bool = Field(
        default=True,
        description="Keep one of training rows that are the same in question and answer.",
    )
    augment: Augment | None = Field(
        default=None, description="More training rows from those there are."
    )
    splits: Splits = Field(default_factory=Splits, description="Shares of held-out rows.")
    max_rows: int | None = Field(
        default=None,
        ge=1,
        description="Use so many rows of the training file only, drawn by the seed.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.train is None):
            raise ValueError(
                "name the file of rows with `path` or with `train`, exactly one of the two"
            )
        if isinstance(self.labels, tuple):
            _refuse_alike(self.labels)
        if "{instruction}" not in self.template:
            raise ValueError("`template` must contain {instruction}")
        _refuse_other_places(self.template, ("instruction", "context"))
        return self
