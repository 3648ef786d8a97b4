"""Building the Lightning trainer: devices, strategy, precision."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy

from thbench.config import TrainerConfig
from thbench.core.errors import UserError
from thbench.training.checkpoints import AtomicCheckpointIO


def make_trainer(
    settings: TrainerConfig, *, alternating: bool = False, **options: Any
) -> L.Trainer:
    """A trainer on the devices that the settings name.

    Args:
        settings: devices, nodes, strategy and precision.
        alternating: several networks are trained in turn, so a backward pass reaches only some
            of the parameters.
        options: arguments of ``lightning.Trainer``, which override the settings.

    Raises:
        UserError: settings that this machine does not allow.
    """
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it
    use_threads(settings)
    base = {
        "accelerator": settings.accelerator,
        "devices": settings.devices,
        "num_nodes": settings.nodes,
        "strategy": settings.strategy,
        "precision": settings.precision,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        # Lightning's own SLURM handler saves in mid-step; ours (``Checkpoints``) does it after.
        "plugins": [
            AtomicCheckpointIO(),
            *([SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []),
        ],
    }
    base |= options
    _check_precision(str(base["precision"]))
    if base["strategy"] == "fsdp":
        # One whole file per checkpoint, which loads on any number of devices.
        base["strategy"] = FSDPStrategy(state_dict_type="full")
    try:
        trainer = L.Trainer(**base)
        if (
            alternating
            and base["strategy"] in ("auto", "ddp")
            and isinstance(trainer.strategy, DDPStrategy)
        ):
            # Only Lightning knows what "auto" becomes, and by default DDP waits for all gradients.
            trainer = L.Trainer(**base | {"strategy": DDPStrategy(find_unused_parameters=True)})
        return trainer
    except (MisconfigurationException, ValueError) as error:  # an impossible value of a setting
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _check_precision(precision: str) -> None:
    """Refuse weights of 16 bits: their spacing is larger than a usual step.

    Raises:
        UserError: the precision is a 16-bit one throughout.
    """
    if precision in ("16-true", "bf16-true"):
        mixed = precision.replace("true", "mixed")
        raise UserError(
            f"precision={precision} keeps the weights themselves in 16 bits, where small steps are"
            f" lost: take {mixed}."
        )


def use_threads(settings: TrainerConfig) -> None:
    """Set the number of torch's CPU threads (``trainer.threads``; 0 keeps torch's own)."""
    if settings.threads:
        torch.set_num_threads(settings.threads)


def limit_devices(settings: TrainerConfig, n: int) -> int | list[int]:
    """The devices named by the settings, at most ``n``, such as the number of clips.

    ``trainer.devices`` is a number, a list or text such as "0,3" of indices, or ``auto`` or -1 for
    all devices.

    Returns:
        A number of devices, or a list of their indices.

    Raises:
        UserError: it is none of these.
    """
    devices = settings.devices
    if isinstance(devices, str) and "," in devices:
        devices = [_whole(index) for index in devices.split(",") if index.strip()]
    if isinstance(devices, list):
        return devices[:n]
    count = -1 if devices == "auto" else _whole(devices)
    if count < 0:
        there = 0 if settings.accelerator == "cpu" else torch.cuda.device_count()
        return max(1, min(there, n))
    return min(count, n)


def _whole(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise UserError(
            f"trainer.devices={value}: it is a number, indices such as 0,3, or auto."
        ) from None
