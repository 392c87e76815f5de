"""Whether an adapter's parts fit a base: paths, shapes, and the rank that its server accepts."""

from collections.abc import Iterable, Mapping

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.names import refuse_tensor
from lorry_registry.checks.parts import AdapterModule, Parts
from lorry_registry.checks.safetensors_header import TensorInfo
from lorry_registry.entities import Base, LinearModule, Parameter
from lorry_registry.errors import InvalidArgument


def check_parts(
    config: AdapterConfig, parts: Parts, tensors: Mapping[str, TensorInfo], base: Base
) -> None:
    """Raises InvalidArgument naming the tensor and the module that do not fit."""
    fit = _Fit(base, tensors)
    for module in parts.modules.values():
        fit.check_embedding(module) if module.embedding else fit.check_linear(module)
        fit.check_rank(module)
    for scale in parts.scales.values():
        layer = fit.linear(scale.path, scale.tensor)
        wanted = layer.in_features if scale.of_input else layer.out_features
        fit.check_size(scale.tensor, scale.path, scale.size, wanted)
    for each in parts.bottlenecks.values():
        layer = fit.linear(each.path, each.up_weight)
        fit.check_size(each.up_weight, each.path, each.features, layer.out_features, "output ")
    for path, rows in parts.tokens.items():
        fit.check_rows(path, rows.tensor, rows.indices)
    for path, name in (*parts.replaced.items(), *parts.copies.items()):
        fit.check_whole(path, name)
    _check_heads(parts, tensors, fit)
    _check_complete(config, parts, base)


class _Fit:
    """A base's layers by their paths, and what is said where something does not fit them."""

    def __init__(self, base: Base, tensors: Mapping[str, TensorInfo]) -> None:
        self.base = base
        self._tensors = tensors
        self._layers = {layer.path: layer for layer in base.modules}
        self.parameters = {parameter.path: parameter for parameter in base.parameters}

    def linear(self, path: str, tensor: str) -> LinearModule:
        layer = self._layers.get(path)
        if layer is None:
            raise refuse_tensor(
                f"module {path!r} is no linear layer of base {self.name}: the adapter was trained on another base "
                "(`lorry announce BASE` makes that one known), or on a layer that is not linear",
                "MODULE_UNKNOWN",
                tensor,
                path,
                self.base.fingerprint,
            )
        return layer

    def check_linear(self, module: AdapterModule) -> None:
        layer = self.linear(module.path, module.a)
        inputs, outputs = self._tensors[module.a].shape[1], self._tensors[module.b].shape[0]
        self.check_size(module.a, module.path, inputs, layer.in_features, "input ")
        self.check_size(module.b, module.path, outputs, layer.out_features, "output ")
        for name in filter(None, (module.magnitude, module.bias)):
            self.check_size(name, module.path, self._length(name), layer.out_features, "output ")

    def check_embedding(self, module: AdapterModule) -> None:
        num_embeddings, width = self.embedding(module.path, module.a).shape
        inputs, outputs = self._tensors[module.a].shape[1], self._tensors[module.b].shape[0]
        self.check_vocabulary(module.a, module.path, inputs, num_embeddings)
        self.check_size(module.b, module.path, outputs, width)
        if module.magnitude:
            self.check_size(module.magnitude, module.path, self._length(module.magnitude), width)

    def check_rank(self, module: AdapterModule) -> None:
        if 0 < self.base.max_rank < module.rank and not module.embedding:
            raise InvalidArgument(
                f"module {module.path!r} has rank {module.rank}, and the server of base "
                f"{self.name} accepts at most {self.base.max_rank}: train with a lower r, or start "
                f"the server with --max-rank {module.rank}",
                reason="RANK_ABOVE_CAP",
                module=module.path,
                rank=module.rank,
                max_rank=self.base.max_rank,
                base=self.base.fingerprint,
            )

    def embedding(self, path: str, tensor: str) -> Parameter:
        """The weight of an embedding, [num_embeddings, embedding_dim]."""
        weight = self.parameter(f"{path}.weight", tensor)
        if len(weight.shape) != 2 or path in self._layers:
            raise refuse_tensor(
                f"tensor {tensor!r} is for an embedding, and {path!r} of base {self.name} is none: "
                "the adapter was trained on another base",
                "MODULE_UNKNOWN",
                tensor,
                path,
                self.base.fingerprint,
            )
        return weight

    def check_rows(self, path: str, tensor: str, indices: Iterable[int]) -> None:
        num_rows, width = self._matrix(path, tensor)
        self.check_size(tensor, path, self._tensors[tensor].shape[1], width)
        beyond = max(indices, default=0)
        if beyond >= num_rows:
            raise self._vocabulary(
                f"tensor {tensor!r} has a row for token {beyond}, and {path!r} of base {self.name} has "
                f"{num_rows}",
                tensor,
                path,
            )

    def check_whole(self, path: str, tensor: str) -> None:
        module, _, kind = path.rpartition(".")
        parameter = self.parameter(path, tensor)
        got, wanted = self._tensors[tensor].shape, parameter.shape
        if parameter.is_heads and len(got) == len(wanted):
            wanted = (got[0], *wanted[1:])
        if got == wanted:
            return
        if kind == "weight" and len(got) == len(wanted) == 2 and got[1] == wanted[1]:
            self.check_vocabulary(tensor, module, got[0], wanted[0])
        raise refuse_tensor(
            f"tensor {tensor!r} has the shape {list(got)}, and {path!r} of base {self.name} has {list(wanted)}: "
            "the adapter was trained on another base",
            "SHAPE_MISMATCH",
            tensor,
            module,
            self.base.fingerprint,
        )

    def check_vocabulary(self, tensor: str, path: str, got: int, wanted: int) -> None:
        if got != wanted:
            raise self._vocabulary(
                f"tensor {tensor!r} is for {got} tokens, and {path!r} of base {self.name} has {wanted}",
                tensor,
                path,
            )

    def check_size(self, tensor: str, path: str, got: int, wanted: int, side: str = "") -> None:
        if got != wanted:
            raise refuse_tensor(
                f"tensor {tensor!r} is for {got} {side}features, and {path!r} of base {self.name} has {wanted}: "
                "the adapter was trained on another base",
                "SHAPE_MISMATCH",
                tensor,
                path,
                self.base.fingerprint,
            )

    def parameter(self, path: str, tensor: str) -> Parameter:
        known = self.parameters.get(path)
        if known is not None:
            return known
        module = path.rpartition(".")[0]
        if not self.parameters:
            why, way_out = (
                "and its server did not say which parameters it has",
                "start the server again, with this version of Lorry",
            )
        elif module in self._layers:
            why, way_out = (
                "which keeps that weight quantized, or has no such bias",
                "train LoRA on that layer instead of the whole of it",
            )
        else:
            why, way_out = (
                "which has no such parameter, or none that can differ from request to request",
                "use the base that the adapter was trained on, or train without it",
            )
        raise refuse_tensor(
            f"tensor {tensor!r} is for {path!r} of base {self.name}, {why}: {way_out}",
            "MODULE_UNKNOWN",
            tensor,
            module,
            self.base.fingerprint,
        )

    @property
    def name(self) -> str:
        return f"{self.base.display_name or 'unnamed'} ({self.base.fingerprint[:19]}…)"

    def _matrix(self, path: str, tensor: str) -> tuple[int, ...]:
        layer = self._layers.get(path)
        if layer is not None:
            return layer.out_features, layer.in_features
        return self.embedding(path, tensor).shape

    def _length(self, tensor: str) -> int:
        """Of a vector; what has more than one dimension has the wrong one."""
        shape = self._tensors[tensor].shape
        return shape[0] if len(shape) == 1 else 0

    def _vocabulary(self, fault: str, tensor: str, path: str) -> InvalidArgument:
        return refuse_tensor(
            f"{fault}: an adapter cannot change the vocabulary of a base that others use. Train without resizing the "
            "embeddings (unused tokens of the base can stand for new ones), or serve the merged model as a base of "
            "its own",
            "VOCABULARY_CHANGED",
            tensor,
            path,
            self.base.fingerprint,
        )


def _check_heads(parts: Parts, tensors: Mapping[str, TensorInfo], fit: _Fit) -> None:
    """Where the base says which heads there are, it is one of them. Else it reads the last hidden states: its inputs
    are the features of the base's embedding."""
    if any(parameter.is_heads for parameter in fit.parameters.values()):
        for path, name in parts.heads.items():
            fit.check_whole(path, name)
        return
    widths = {
        parameter.shape[1] for parameter in fit.parameters.values() if len(parameter.shape) == 2
    }
    for path, name in parts.heads.items():
        shape = tensors[name].shape
        if path.endswith(".weight") and (len(shape) != 2 or (widths and shape[1] not in widths)):
            raise refuse_tensor(
                f"tensor {name!r} has the shape {list(shape)}, and a head over the hidden states of base {fit.name} "
                f"is [number of labels, one of {sorted(widths)}]: the adapter was trained on another base",
                "SHAPE_MISMATCH",
                name,
                path.rpartition(".")[0],
                fit.base.fingerprint,
            )


def _check_complete(config: AdapterConfig, parts: Parts, base: Base) -> None:
    """PEFT would look for every parameter of a module in `modules_to_save`, and fail. Of the heads that the base names
    an adapter brings those of its own task."""
    brought = {*parts.replaced, *parts.heads}
    heads = {path.rpartition(".")[0] for path in brought}
    for parameter in base.parameters:
        module = parameter.path.rpartition(".")[0]
        is_meant = (
            module in heads if parameter.is_heads else module.endswith(config.modules_to_save)
        )
        if is_meant and parameter.path not in brought:
            raise InvalidArgument(
                f"the adapter brings {module!r} whole, and the file has no {parameter.path!r}: it is incomplete, save "
                "it again",
                reason="TENSOR_MISSING",
                module=module,
            )
