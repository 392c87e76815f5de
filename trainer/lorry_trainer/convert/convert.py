"""From the folder of an adapter that is not served to the folder of the LoRA that does the same."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from lorry_bases import BaseNotFound
from lorry_bases.load import Base, BaseRefused, load_base
from lorry_trainer.convert.delta import PREFIX, layers_of, merge
from lorry_trainer.convert.factors import EXACT, Factors, factorize
from lorry_trainer.convert.float_base import unpack
from lorry_trainer.convert.kinds import KINDS
from lorry_trainer.errors import ConversionError
from lorry_trainer.folder import MARK, appearing
from lorry_trainer.lineage import producer
from lorry_trainer.progress import Progress, Silent

MAX_RANK = 64  # what a server takes unless it is told otherwise
_ELSEWHERE = 1e-3  # of the logits: what merging may change in them, by rounding
_SHOWN_MODULES = 10
_KEPT = (
    ".md",
    ".yaml",
    ".yml",
    ".png",
    ".txt",
)  # beside the adapter's own files: what people wrote


@dataclass(frozen=True)
class Converted:
    """One layer of the LoRA."""

    rank: int
    error: float  # relative, Frobenius


@dataclass(frozen=True)
class Conversion:
    folder: Path
    kind: str
    layers: Mapping[str, Converted]

    @property
    def rank(self) -> int:
        return max(layer.rank for layer in self.layers.values())

    @property
    def error(self) -> float:
        """The largest of the layers'."""
        return max(layer.error for layer in self.layers.values())

    def __str__(self) -> str:
        lost = f"converted {self.kind} to LoRA of rank {self.rank}, largest relative error {self.error:.2g}"
        if self.error > 0.01:
            lost += (
                f": much of the change is lost; `lorry convert --rank` with more than {self.rank} keeps more, for "
                "servers that are started with as much --max-rank"
            )
        return lost


def convert(
    folder: Path,
    out: Path,
    *,
    base: str | None = None,
    max_rank: int = MAX_RANK,
    energy: float = EXACT,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Writes the LoRA that changes the weights of the served base as the adapter in `folder` does.

    Args:
        base: a shipped base, a folder or a hub id; None: the one that the adapter names.
        max_rank: of any layer.
        energy: the share of each layer's change, as squared singular values, that is kept where `max_rank` allows.

    Raises TrainerError: ConversionError where the adapter is of no kind that can be converted, or its base is not to be
    had; OutputError.
    """
    progress = progress or Silent()
    config = _read_config(folder)
    kind = config["peft_type"]
    loaded = _load_base(base or config.get("base_model_name_or_path") or "", given=base is not None)
    weights = unpack(loaded)
    model = _with_adapter(loaded, folder, kind)
    layers = layers_of(model, kind)
    probe = torch.arange(2, 18, device=loaded.model.device)[None] % loaded.model.config.vocab_size
    before = _logits(model, probe)
    progress.start("converting", len(layers))
    found: dict[str, Factors] = {}
    biases: dict[str, torch.Tensor] = {}
    for delta in merge(layers, weights, kind):
        if delta.weight.any() or delta.bias is not None:
            found[delta.path] = factorize(delta.weight, max_rank=max_rank, energy=energy)
        if delta.bias is not None:
            biases[delta.path] = delta.bias.float()
        progress.advance(1)
    if not found:
        raise ConversionError(
            f"{folder} changes nothing in {loaded.name!r}: train the adapter first"
        )
    _refuse_what_is_not_merged(kind, before, _logits(model, probe))
    conversion = Conversion(
        out, kind, {path: Converted(each.rank, each.error) for path, each in found.items()}
    )
    with appearing(out, overwrite=overwrite) as partial:
        _write_adapter(partial, config, found, biases)
        for path in folder.iterdir():
            if path.suffix in _KEPT and path.is_file():
                shutil.copyfile(path, partial / path.name)
        _write_json(partial / "lineage.json", _lineage(folder, loaded, conversion))
        _write_card(partial / "README.md", conversion, loaded.name)
    return conversion


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / MARK).read_bytes())
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConversionError(f"{folder} is no adapter folder: {MARK}: {error!r}") from error
    if kind not in {*KINDS, "LORA"}:
        raise ConversionError(
            f"adapters of the kind {kind!r} cannot be converted to LoRA; those that can are "
            f"{', '.join(sorted(KINDS))}"
        )
    return dict(config)


def _load_base(name: str, *, given: bool) -> Base:
    try:
        return load_base(name)
    except (BaseNotFound, BaseRefused) as error:
        way = "" if given else ". Name the base with `lorry convert DIR OUT --base BASE`"
        raise ConversionError(f"{error}{way}") from error


def _with_adapter(base: Base, folder: Path, kind: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(base.model, folder, is_trainable=False).eval()
    except Exception as error:  # PEFT's, torch's and each kind's own
        raise ConversionError(
            f"PEFT cannot load the {kind} adapter in {folder} on {base.name!r}: {error}"
        ) from error


@torch.inference_mode()
def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=ids).logits[0].double()
    return logits


def _refuse_what_is_not_merged(kind: str, before: torch.Tensor, after: torch.Tensor) -> None:
    off = float((after - before).norm() / before.norm())
    if not off <= _ELSEWHERE:
        raise ConversionError(
            f"this {kind} adapter does more than change weights: merged, its logits are off by {off:.2g}; "
            "train one of another kind"
        )


def _write_adapter(
    folder: Path,
    config: Mapping[str, Any],
    found: Mapping[str, Factors],
    biases: Mapping[str, torch.Tensor],
) -> None:
    rank = max(factors.rank for factors in found.values())
    ranks = {path: factors.rank for path, factors in found.items() if factors.rank != rank}
    # The scale is 1 everywhere: it is in the factors.
    lora = LoraConfig(
        task_type=config.get("task_type") or "CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        target_modules=sorted(found),
        lora_bias=bool(biases),
        base_model_name_or_path=config.get("base_model_name_or_path"),
        inference_mode=True,
    )
    lora.save_pretrained(folder)
    written = json.loads((folder / MARK).read_bytes())
    written["target_modules"].sort()
    _write_json(folder / MARK, written)
    tensors: dict[str, torch.Tensor] = {}
    for path, factors in found.items():
        tensors[f"{PREFIX}{path}.lora_A.weight"] = factors.a
        tensors[f"{PREFIX}{path}.lora_B.weight"] = factors.b
        if biases:
            bias = biases.get(path)
            tensors[f"{PREFIX}{path}.lora_B.bias"] = (
                torch.zeros(len(factors.b)) if bias is None else bias
            )
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _lineage(folder: Path, base: Base, conversion: Conversion) -> dict[str, Any]:
    """What was known of the adapter, and the conversion's errors among its metrics."""
    path = folder / "lineage.json"
    known: dict[str, Any] = {"producer": producer()}
    if path.is_file():
        known = json.loads(path.read_bytes())
    errors = {f"conversion_error/{path}": layer.error for path, layer in conversion.layers.items()}
    return {
        **known,
        "baseFingerprint": base.fingerprint,
        "metrics": {
            **known.get("metrics", {}),
            "conversion_error": conversion.error,
            "conversion_rank": conversion.rank,
            **errors,
        },
    }


def _write_card(path: Path, conversion: Conversion, base_name: str) -> None:
    """After what the card said already."""
    known = (
        path.read_text(encoding="utf-8").rstrip()
        if path.is_file()
        else f"# {conversion.folder.name}"
    )
    worst = sorted(conversion.layers.items(), key=lambda item: -item[1].error)[:_SHOWN_MODULES]
    lines = [
        known,
        "",
        "## Converted",
        "",
        f"Lorry converted this adapter from {conversion.kind} to LoRA on `{base_name}`. What is lost of each layer's "
        f"change, in the Frobenius norm: at most {conversion.error:.2g}.",
        "",
        "| layer | rank | relative error |",
        "| --- | --- | --- |",
        *(f"| {layer} | {each.rank} | {each.error:.2g} |" for layer, each in worst),
    ]
    if len(conversion.layers) > len(worst):
        lines.append(f"| {len(conversion.layers) - len(worst)} more | | less |")
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
