"""What the server's own RPCs ask of their callers; those of a registry inside it have their rules there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lorry.inference.v1.inference_service_pb2 import (
    ClassifyResponse,
    ClassifyTokensResponse,
    EmbedResponse,
    GenerateResponse,
    ScoreResponse,
)
from lorry_registry.access.rights import Role
from lorry_registry.rpc.rules import RULES, Rule, anyone, changing, everywhere, somewhere

_INFERENCE = "/lorry.inference.v1.InferenceService/"
_ADMIN = "/lorry.admin.v1.AdminService/"

_ADAPTERS = ("adapter", "composition.terms.adapter")


def tokens_in(answer: GenerateResponse) -> int:
    """What a message of an answer cost: its new tokens, and once, with the end of the first answer, the prompt's."""
    spent = len(answer.token_ids) + sum(map(tokens_in, answer.alternatives))
    if answer.index == 0 and answer.HasField("completion"):
        spent += answer.completion.usage.prompt_tokens
    return spent


Judged = ScoreResponse | EmbedResponse | ClassifyResponse | ClassifyTokensResponse


def prompt_tokens_in(answer: Judged) -> int:
    """What an answer cost that generates nothing."""
    return answer.usage.prompt_tokens


SERVER_RULES: Mapping[str, Rule] = {
    **RULES,
    # For each call, whether the adapter is in a slot or not. The bare base is nobody's: any namespace will do.
    _INFERENCE + "Generate": replace(somewhere(Role.INFER, *_ADAPTERS), spends=tokens_in),
    _INFERENCE + "GenerateUnary": replace(somewhere(Role.INFER, *_ADAPTERS), spends=tokens_in),
    _INFERENCE + "Score": replace(somewhere(Role.INFER, *_ADAPTERS), spends=prompt_tokens_in),
    _INFERENCE + "Embed": replace(somewhere(Role.INFER, *_ADAPTERS), spends=prompt_tokens_in),
    # The weights themselves go out.
    _INFERENCE + "Compose": somewhere(Role.READ, "composition.terms.adapter"),
    _INFERENCE + "Classify": replace(somewhere(Role.INFER, *_ADAPTERS), spends=prompt_tokens_in),
    _INFERENCE + "ClassifyTokens": replace(
        somewhere(Role.INFER, *_ADAPTERS), spends=prompt_tokens_in
    ),
    _INFERENCE + "Tokenize": somewhere(Role.INFER),
    _INFERENCE + "ListModels": somewhere(Role.INFER),
    _ADMIN + "ListResidents": anyone(),
    _ADMIN + "GetStatus": anyone(),
    # Slots are shared: who fills or pins one takes it from all tenants.
    _ADMIN + "LoadAdapter": changing(everywhere(Role.ADMIN, *_ADAPTERS)),
    _ADMIN + "PinAdapter": changing(everywhere(Role.ADMIN, "adapter")),
    _ADMIN + "UnloadAdapter": changing(everywhere(Role.ADMIN, "adapter")),
    _ADMIN + "MergeAdapter": changing(everywhere(Role.ADMIN, *_ADAPTERS)),
    _ADMIN + "UnmergeAdapter": changing(everywhere(Role.ADMIN)),
}
