"""The kinds that are not served: why, and the nearest way for each."""

from collections.abc import Mapping, Sequence

CONVERTED = frozenset(
    {
        "ADALORA",
        "ADAMSS",
        "BOFT",
        "C3A",
        "DEFT",
        "DELORA",
        "FOURIERFT",
        "FROD",
        "GLORA",
        "GRALORA",
        "HIRA",
        "HRA",
        "LOHA",
        "LOKR",
        "MISS",
        "OFT",
        "OSF",
        "PEANUT",
        "PSOFT",
        "PVERA",
        "RANDLORA",
        "ROAD",
        "SHIRA",
        "SUPERTUNING",
        "TINYLORA",
        "UNILORA",
        "VBLORA",
        "VERA",
        "WAVEFT",
    }
)
"""Those that change the weights of linear layers and nothing else: `lorry convert` makes a LoRA that does the same."""

_OTHERS: Mapping[str, str] = {
    "ADAPTION_PROMPT": "its prompts have gates inside attention, where no adapter acts here: train PREFIX_TUNING",
    "BEFT": "it trains biases alone, where most bases have none: train LORA with lora_bias=True",
    "LILY": "its routers choose factors token by token: train LORA",
    "MULTITASK_PROMPT_TUNING": "every request would have to name its task: publish each task's prompt, the shared one "
    "times the task's factors, as an adapter of its own, PROMPT_TUNING",
    "POLY": "every request would have to name its task: train LORA for each task, and compose them in the request",
    "SHADOW": "it runs a second network beside the base: train LORA",
    "XLORA": "a network of its own weighs its adapters token by token: publish each of them as LORA, and compose them "
    "in the request",
}


def unserved(kind: str, served: Sequence[str]) -> str:
    """What is said of an adapter of a kind that is not among `served`."""
    if kind in CONVERTED:
        return (
            f"adapters of the kind {kind} are served as LoRA: `lorry convert DIR OUT` makes the LoRA that does the "
            "same (with `pip install 'lorry[trainer]'`), and `lorry push` does so by itself"
        )
    if kind in _OTHERS:
        return f"adapters of the kind {kind} are not served: {_OTHERS[kind]}"
    return f"adapters of the kind {kind!r} are not served; train one of {', '.join(served)}"
