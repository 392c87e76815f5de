"""What a launcher may ask of a run: processes, and nothing that would change what is learnt past the recipe.

`accelerate launch` hands its options and its configuration on in the environment, where transformers and accelerate
read them.
"""

from __future__ import annotations

import os

from lorry_trainer.errors import RecipeError

# What spreads the weights over processes: here each holds the whole base, in 4 bits, and what is learnt.
_SPREADING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}
_MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_WAY_OUT = "use `torchrun --nproc-per-node N --no-python lorry train RECIPE`"


def refuse_other_wishes(*, on_cuda: bool) -> None:
    """Raises RecipeError where the launcher asks for what would be ignored, or be in no recipe."""
    for name, what in _SPREADING.items():
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise RecipeError(
                f"accelerate is set to {what}, which spreads the weights over the processes, and here each holds the "
                "whole base; start it with `accelerate launch --multi_gpu`, or run `accelerate config` anew"
            )
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    own = "bf16" if on_cuda else "no"
    if precision not in ("no", own):
        raise RecipeError(
            f"accelerate is set to mixed_precision: {precision}, and training is in {'bf16' if on_cuda else 'float32'} "
            f"on a {'GPU' if on_cuda else 'CPU'}; start it with `--mixed_precision {own}`"
        )
    compiler = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":
        raise RecipeError(
            f"accelerate is set to dynamo_backend: {compiler}, and training compiles nothing; start it with "
            "`--dynamo_backend no`"
        )
    if "WORLD_SIZE" in os.environ:
        return
    if any(int(os.environ.get(name, "1")) > 1 for name in _MPI):
        raise RecipeError(f"MPI has started several processes, which is not supported; {_WAY_OUT}")
    # accelerate starts several on CPUs by MPI alone, and else, without a word, one.
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ:
        raise RecipeError(
            "`accelerate launch --cpu` starts one process only, whatever --num_processes says; "
            f"{_WAY_OUT}"
        )
