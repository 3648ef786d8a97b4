"""Frechet distances over the frames of all clips."""

from __future__ import annotations

from metrics.frechet import FrechetMetric


class FID(FrechetMetric):
    """Frechet Inception Distance (Heusel et al. 2017), as pytorch-fid computes it.

    The 2048 features of the last pooling of the Inception network with TensorFlow's 2015 weights;
    see ``metrics.extractors.inception`` for the preprocessing.
    """

    needs = ("inception",)
    feature = "inception"
    dim = 2048

    @property
    def name(self) -> str:
        return "FID"


class PyramidDistance(FrechetMetric):
    """Frechet distance of a hand-crafted image descriptor that needs no weights.

    Not FID and not comparable with it: it sees brightness, colour, contrast and the energy of
    edges at four scales in a 4 x 4 grid, in squared grey levels; it knows nothing of faces.
    See ``metrics.extractors.pyramid``.
    """

    unit = "grey levels squared"
    needs = ("pyramid",)
    feature = "pyramid"
    dim = 240

    @property
    def name(self) -> str:
        return "FD-pyramid"


class SyntheticFD(FrechetMetric):
    """Frechet distance of the features that read pose, mouth and lids of synthetic faces.

    Not FID: it says something about rendered faces only. See ``metrics.extractors.synthetic``.
    """

    needs = ("synthetic-face",)
    feature = "synthetic-face"
    dim = 64

    @property
    def name(self) -> str:
        return "FD-synthetic"


class SyntheticFVD(FrechetMetric):
    """Frechet distance of how those features move within windows of 16 frames, every 8.

    Not FVD: it says something about rendered faces only. Clips shorter than a window add nothing.
    """

    needs = ("synthetic-motion",)
    feature = "synthetic-motion"
    dim = 256
    least_frames = 16

    @property
    def name(self) -> str:
        return "FVD16-synthetic"
