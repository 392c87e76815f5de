"""Bases: pretrained models that adapters are trained for and served on.

    resolve("lorry-tiny")             -> the folder that holds a base
    fingerprint(folder)               -> what makes two bases the same base
    lorry_bases.load.load_base(...)   -> the model, quantized and frozen (imports torch)
    lorry_bases.shapes.linear_shapes  -> what an adapter may attach to (imports torch)

Knows nothing about adapters, servers or training. What is imported here needs no torch.
"""

from lorry_bases.catalog import DEFAULT_BASE, BaseNotFound, resolve, shipped
from lorry_bases.fingerprint import Quantization, fingerprint

__all__ = ["DEFAULT_BASE", "BaseNotFound", "Quantization", "fingerprint", "resolve", "shipped"]
