"""Which kinds of adapter can be converted to LoRA: those that PEFT can merge into the weights of linear layers.

An entry point of the group `lorry.converters`: `lorry push` finds it, and calls it for these kinds. Knows no torch.
"""

from __future__ import annotations

from pathlib import Path

from lorry_trainer.errors import ConversionError

KINDS = frozenset(
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


def convert(folder: Path, out: Path) -> str:
    """Writes the LoRA for the adapter in `folder`, with what `lorry convert` does by itself; returns a line about it.

    Raises TrainerError.
    """
    try:
        from lorry_trainer.quiet import quiet_logs

        quiet_logs()
        from lorry_trainer.convert.convert import convert as convert_to_lora
    except ImportError as error:
        raise ConversionError(
            f"converting an adapter needs more libraries ({error}): pip install 'lorry[trainer]'"
        ) from error
    return str(convert_to_lora(folder, out))
