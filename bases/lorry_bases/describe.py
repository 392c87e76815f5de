"""A base in the words of a registry: what adapters may attach to, change and bring. With or without its weights.

A decoder is described as it is served: a causal LM, its output head included. An encoder is described as the
objectives that put a head on it find it, so that the paths are those in their adapters' files.

Knows nothing about registries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from lorry_bases.catalog import resolve
from lorry_bases.fingerprint import NF4, Quantization, fingerprint
from lorry_bases.load import (
    TASK_HEADS,
    Base,
    BaseRefused,
    Head,
    context_length,
    is_encoder,
    load_model,
)
from lorry_bases.shapes import ParameterShape, linear_shapes, parameter_shapes

_JUDGES = (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoModelForQuestionAnswering,
)


@dataclass(frozen=True)
class Description:
    """What uploads are checked against."""

    name: str  # as the user gave it
    fingerprint: str
    architecture: str  # the class: LlamaForCausalLM; of an encoder without a head: BertModel
    quantization: str  # nf4, nf4-double or none
    modules: dict[str, tuple[int, int]]  # linear layers: (in_features, out_features) by path
    parameters: tuple[ParameterShape, ...]
    context_length: int  # tokens
    is_encoder: bool = False


def describe(base: Base) -> Description:
    """Of a base that is loaded as a server runs it."""
    if base.is_encoder:
        return _described(base.name, base.path, base.fingerprint, base.quantization)
    return Description(
        name=base.name,
        fingerprint=base.fingerprint,
        architecture=base.architecture,
        quantization=_named(base.quantization),
        modules=linear_shapes(base.model),
        parameters=tuple(parameter_shapes(base.model)),
        context_length=base.context_length,
    )


def describe_unloaded(base: str) -> Description:
    """Of any base, as it is served, in plain NF4: its files are read once for the fingerprint, and no weight is held.

    Raises BaseNotFound, or BaseRefused.
    """
    path = resolve(base)
    return _described(base, path, fingerprint(path, NF4), NF4)


def _described(name: str, path: Path, digest: str, quantization: Quantization) -> Description:
    encoder = is_encoder(path)
    loaded = (
        _with_heads(name, path, quantization)
        if encoder
        else [load_model(name, path, quantization=quantization, device="meta")]
    )
    modules: dict[str, tuple[int, int]] = {}
    parameters: dict[str, ParameterShape] = {}
    for model, new in loaded:
        heads = {*TASK_HEADS, *new} if encoder else set()
        linear = linear_shapes(model)
        modules |= {at: linear[at] for at in linear if heads.isdisjoint(at.split("."))}
        for each in parameter_shapes(model):
            in_trunk = heads.isdisjoint(each.path.split("."))
            shape = each.shape if in_trunk else (0, *each.shape[1:])
            parameters.setdefault(each.path, replace(each, shape=shape))
    model = loaded[0][0]
    return Description(
        name=name,
        fingerprint=digest,
        architecture=type(model.base_model if encoder else model).__name__,
        quantization=_named(quantization),
        modules=modules,
        parameters=tuple(parameters.values()),
        context_length=context_length(model),
        is_encoder=encoder,
    )


def _with_heads(
    base: str, path: Path, quantization: Quantization
) -> list[tuple[PreTrainedModel, tuple[str, ...]]]:
    """The encoder under each head that goes on it, and the names of its new modules. Raises BaseRefused for none."""
    loaded: list[tuple[PreTrainedModel, tuple[str, ...]]] = []
    refusals: list[BaseRefused] = []
    for auto_class in _JUDGES:
        try:
            head = Head(auto_class)
            loaded.append(
                load_model(base, path, quantization=quantization, device="meta", head=head)
            )
        except BaseRefused as error:
            refusals.append(error)
    if not loaded:
        raise refusals[0]
    return loaded


def _named(quantization: Quantization) -> str:
    return f"{quantization.type}-double" if quantization.double else quantization.type
