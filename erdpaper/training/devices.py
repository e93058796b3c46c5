"""The accelerator of a training: devices, mixed precision, and FSDP as accelerate runs it."""

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin

Precision = Literal["no", "fp16", "bf16"]


def engine(precision: Precision = "no", cpu: bool = False, sharded: bool = False) -> "Accelerator":
    """An accelerator for the processes that there are.

    sharded: FSDP, also where accelerate's own configuration asks for it.  Raises ValueError where
    accelerate has nothing to spread a network over: with one process, or on CPUs.
    """
    # imported here and below: it takes a second or two, which sampling can do without
    from accelerate import Accelerator

    sharded = sharded or os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    plugin = fsdp() if sharded else None
    made = Accelerator(mixed_precision=precision, cpu=cpu, fsdp_plugin=plugin)
    if sharded and not made.is_fsdp2:
        raise ValueError(
            "a network is sharded over several GPUs, one a process: start it by "
            "`accelerate launch --num_processes N -m erdpaper train ...`, or leave out --shard"
        )
    return made


def fsdp() -> "FullyShardedDataParallelPlugin":
    """accelerate's plugin, version 2, with what it leaves open read from accelerate's own settings.

    Blocks are gathered one at a time, and precision is left to autocast, as without FSDP: its own
    way would round inputs, and bfloat16 has not enough digits for a time.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        reshard_after_forward=True,
        auto_wrap_policy="transformer_based_wrap",
        cpu_ram_efficient_loading=False,
        mixed_precision_policy=MixedPrecisionPolicy(cast_forward_inputs=False),
    )
