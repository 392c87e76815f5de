"""Make a base known to a registry that no server of it has met, so that adapters for it are taken there."""

from __future__ import annotations

from lorry_bases import BaseNotFound
from lorry_bases.describe import Description, describe_unloaded
from lorry_bases.load import BaseRefused
from lorry_client import Client, NewBase, Parameter
from lorry_trainer.errors import UnusableBase
from lorry_trainer.lineage import public_name


def announce(base: str, client: Client) -> Description:
    """Describes the base as it is served, in plain NF4, and tells the registry; told again, nothing changes there.

    Raises:
        UnusableBase: it is not there, or transformers cannot make a decoder or an encoder of it.
        lorry_client.LorryError: nobody answers, the caller may not, or the base is known otherwise.
    """
    try:
        described = describe_unloaded(base)
    except (BaseNotFound, BaseRefused) as error:
        raise UnusableBase(f"{error}") from error
    client.create_base(
        NewBase(
            fingerprint=described.fingerprint,
            display_name=public_name(base),
            architecture=described.architecture,
            quantization=described.quantization,
            modules=described.modules,
            parameters=tuple(
                Parameter(each.path, each.shape, each.tied_to) for each in described.parameters
            ),
            context_length=described.context_length,
        )
    )
    return described
