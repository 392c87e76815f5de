"""What an adapter's files must be before a version of them exists, and how to read them. No torch.

manifest            names, digests and sizes of the files
adapter_config      PEFT's configuration: what is read, ignored, refused
safetensors_header  where the tensors lie; a header that lies is refused
kinds               which tensors make an adapter of a kind, and how they fit a base
finite              every number is one
files               the two files of an adapter together: `read_adapter`
"""

from lorry_registry.checks.adapter_config import AdapterConfig
from lorry_registry.checks.files import AdapterFiles, read_adapter, read_adapter_files
from lorry_registry.checks.kinds import KINDS, AdapterModule
from lorry_registry.checks.kinds.lora import module_rank, scaling
from lorry_registry.checks.manifest import CONFIG_FILE, WEIGHTS_FILE, check_manifest
from lorry_registry.checks.safetensors_header import TensorInfo, read_header

__all__ = [
    "CONFIG_FILE",
    "KINDS",
    "WEIGHTS_FILE",
    "AdapterConfig",
    "AdapterFiles",
    "AdapterModule",
    "TensorInfo",
    "check_manifest",
    "module_rank",
    "read_adapter",
    "read_adapter_files",
    "read_header",
    "scaling",
]
