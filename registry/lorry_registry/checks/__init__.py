"""What an adapter's files must be before a version of them exists, and how to read them. No torch.

manifest            names, digests and sizes of the files
adapter_config      PEFT's configuration: what is read, ignored, refused
safetensors_header  where the tensors lie; a header that lies is refused
names               PEFT's names for tensors, under every form that its versions have written
parts               what the tensors are, each in its place
kinds               which tensors make an adapter of a kind
saved               what any kind may bring besides: whole parameters, rows of embeddings
fit                 whether the parts fit a base
finite              every number is one
labels              what an adapter's head calls its outputs
files               the files of an adapter together: `read_adapter`
"""

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.files import AdapterFiles, read_adapter, read_adapter_files
from lorry_registry.checks.kinds import KINDS
from lorry_registry.checks.kinds.lora import module_rank, scaling
from lorry_registry.checks.labels import LABELS_FILE, MAX_LABELS_BYTES, read_labels
from lorry_registry.checks.manifest import CONFIG_FILE, WEIGHTS_FILE, check_manifest
from lorry_registry.checks.parts import AdapterModule, Parts, TokenRows
from lorry_registry.checks.safetensors_header import TensorInfo, read_header
from lorry_registry.entities import Base, LinearModule, Parameter

__all__ = [
    "CONFIG_FILE",
    "KINDS",
    "LABELS_FILE",
    "MAX_LABELS_BYTES",
    "WEIGHTS_FILE",
    "AdapterConfig",
    "AdapterFiles",
    "AdapterModule",
    "Base",
    "LinearModule",
    "Parameter",
    "Parts",
    "TensorInfo",
    "TokenRows",
    "check_manifest",
    "module_rank",
    "read_adapter",
    "read_adapter_files",
    "read_header",
    "read_labels",
    "scaling",
]
