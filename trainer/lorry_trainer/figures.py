"""Figures side by side, for a page, a terminal or a card: one a line, whoever earned them in columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_BOUNDS = ("_low", "_high")
# what a reader calls them, where that is not the key with blanks
_WORDS = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "precision": "precision (mean over labels)",
    "recall": "recall (mean over labels)",
    "f1": "F1 (mean over labels)",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "loss": "loss per expected token (nats)",
    "span_f1": "F1 of whole spans",
    "span_precision": "precision of whole spans",
    "span_recall": "recall of whole spans",
    "tag_accuracy": "accuracy of single tags",
    "preference_accuracy": "chosen answer preferred (share of rows)",
    "reward_accuracy": "chosen answer gains on the rejected one, against the bare base (share of rows)",
    "preference_auc": "good answers told from bad (area under the ROC curve)",
    "logprob_margin": "chosen answer likelier by (nats per token)",
    "reward_margin": "chosen answer's reward higher by",
    "reward": "reward (mean)",
    "win_rate": "win rate (ties count half)",
    "test_rows": "test rows scored",
    "train_loss": "training loss, at the end",
    "train_kl": "KL divergence from the bare base, at the end (nats per token)",
    "train_tokens": "tokens trained on",
    "validation_loss": "validation loss of the adapter that was kept",
    "steps": "steps trained",
    "kept_step": "step whose adapter was kept",
    "general_perplexity": "perplexity of general text, adapter",
    "svd_energy_kept": "energy of the weights' change that the adapter keeps",
    "svd_energy_kept_worst_layer": "the same, in the layer that keeps least",
    "svd_relative_error": "error of the weights' change, as a share of its norm",
    "loftq_recovered_at_start": "what quantizing lost, recovered before training (share)",
    "base_general_perplexity": "perplexity of general text, bare base",
}


def words_of(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


def side_by_side(
    metrics: Mapping[str, float], columns: Sequence[tuple[str, str]], first: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """The headings of the columns that have figures, and the rows: a figure's name, and its value with its interval in
    each column, empty where it has none. `columns` are (heading, prefix of its figures); `first` stands first."""
    shown = [(heading, prefix) for heading, prefix in columns if _of(metrics, prefix)]
    names = sorted({name for _, prefix in shown for name in _of(metrics, prefix)})
    names.sort(key=lambda name: name != first)
    rows = [[name, *(_cell(metrics, prefix + name) for _, prefix in shown)] for name in names]
    return [heading for heading, _ in shown], rows


def _of(metrics: Mapping[str, float], prefix: str) -> list[str]:
    return [
        name.removeprefix(prefix)
        for name in metrics
        if name.startswith(prefix) and not name.endswith((*_BOUNDS, "_rows"))
    ]


def _cell(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = (metrics.get(name + bound) for bound in _BOUNDS)
    if low is None or high is None:
        return _number(metrics[name])
    return f"{_number(metrics[name])} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1e5 else f"{value:.3g}"
