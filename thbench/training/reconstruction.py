"""The base of stages that learn to reconstruct a frame from a portrait of the same clip."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from metrics.download import reachable
from thbench.core.errors import UserError
from thbench.core.hub import MissingResource
from thbench.core.types import Batch, to_unit
from thbench.nn.perceptual import (
    VGG19,
    VGG_URL,
    Features,
    has_vgg_weights,
    pixel_features,
    vgg_remedy,
)
from thbench.training.stage import Frozen, Stage, StageContext

PERCEPTUAL = ("vgg", "pixel")


class ReconstructionStage(Stage):
    """A stage whose loss compares features of images.

    VGG-19's weights are loaded when training starts, not when a trained network is loaded.

    Args:
        context: size, seed, optimiser and needed networks.
        perceptual: ``vgg`` (the five blocks of VGG-19) or ``pixel`` (pixels and their differences;
            needs no weights).
        vgg: the features, in place of ImageNet's.
    """

    uses_audio = False

    def __init__(
        self, context: StageContext, perceptual: str = "vgg", vgg: nn.Module | None = None
    ) -> None:
        super().__init__(context)
        if perceptual not in PERCEPTUAL:
            raise UserError(f"perceptual must be 'vgg' or 'pixel', not '{perceptual}'.")
        self.perceptual = perceptual
        if vgg is not None:
            self.frozen["vgg"] = Frozen(vgg)

    def on_fit_start(self) -> None:
        self.features()  # so missing weights are reported before the first batch is read
        super().on_fit_start()

    def missing(self, steps: int) -> Iterator[MissingResource]:
        if (
            steps
            and self.perceptual == "vgg"
            and "vgg" not in self.frozen
            and not has_vgg_weights()
        ):
            yield MissingResource(vgg_remedy(), is_fatal=not reachable(VGG_URL))

    def use_placeholders(self) -> None:
        if self.perceptual == "vgg":
            self.frozen.setdefault("vgg", Frozen(VGG19(None)))

    def features(self) -> Features:
        """The feature extractor for ``pyramid_l1``: from images (B, 3, H, W) in [0, 1] to maps."""
        if self.perceptual == "pixel":
            return pixel_features
        if "vgg" not in self.frozen:
            self.frozen["vgg"] = Frozen(VGG19()).to(self.device)
        return self.frozen["vgg"].module


def pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """Portraits and frames, (B*T, 3, H, W) in [0, 1]."""
    source = to_unit(batch.source).repeat_interleave(batch.video.shape[1], dim=0)
    return source, to_unit(batch.video).flatten(0, 1)
