"""Official weight files: where they come from, where they lie, whether they are what they claim."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


class WeightsMissing(Exception):
    """A weight file is not here, or is not the official one. The message says how to get it."""


class WeightsUnreadable(Exception):
    """A weight file holds something else than tensors by name, or is damaged."""


def onnxruntime() -> Any:
    """The package that runs networks that are published as ONNX.

    Raises:
        WeightsMissing: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise WeightsMissing(
            "onnxruntime is not installed: pip install 'thbench[arcface]'"
        ) from error


@dataclass(frozen=True)
class Weights:
    """A published weight file.

    Attributes:
        file: its name in the weights folder.
        url: where the publisher offers it, or the archive that it lies in.
        licence: its terms.
        sha256: hex digits that its SHA-256 begins with, or None where only ``git_blob`` is known.
        git_blob: the SHA-1 that git gives the file, or None.
        used_by: what needs it, for people.
        mirrors: further addresses of what is at ``url``, in the order of trying.
        member: the file's path inside the archive (zip) at ``url``, or None where the file itself
            is there. The hashes are the member's.
        size: bytes of what is downloaded, where known.
    """

    file: str
    url: str
    licence: str
    sha256: str | None = None
    git_blob: str | None = None
    used_by: str = ""
    mirrors: tuple[str, ...] = ()
    member: str | None = None
    size: int | None = None


WEIGHTS = {
    "arcface": Weights(
        file="w600k_r50.onnx",
        url="https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip",
        licence="non-commercial research",
        sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        used_by="CSIM",
        member="w600k_r50.onnx",
        size=288_621_354,
    ),
    "fid-inception": Weights(
        file="pt_inception-2015-12-05-6726825d.pth",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        licence="Apache-2.0",
        sha256="6726825d",
        used_by="FID, DR",
    ),
    "i3d-kinetics400": Weights(
        file="i3d_pretrained_400.pt",
        url="https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt",
        licence="MIT",
        git_blob="a867b87ac3a9097d200598b1d48a1b890d8ec744",
        used_by="FVD",
    ),
    "i3d-torchscript": Weights(
        file="i3d_torchscript.pt",
        url="https://huggingface.co/ByteDance/LatentSync-1.5/resolve/main/"
        "auxiliary/i3d_torchscript.pt",
        licence="NVIDIA's terms",
        sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
        used_by="FVD",
        mirrors=("https://www.dropbox.com/s/ge9e5ujwgetktms/i3d_torchscript.pt?dl=1",),
        size=51_235_320,
    ),
    "lpips-alexnet": Weights(
        file="alexnet-owt-7be5be79.pth",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        licence="BSD-3-Clause",
        sha256="7be5be79",
        used_by="LPIPS",
    ),
    "silero-vad": Weights(
        file="silero_vad.onnx",
        url="https://files.pythonhosted.org/packages/py3/s/silero-vad/"
        "silero_vad-5.1.2-py3-none-any.whl",
        licence="MIT",
        sha256="2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f",
        used_by="Silent lip stability, Lip-sync, THEval score",
        member="silero_vad/data/silero_vad.onnx",
        size=5_026_737,
    ),
    "syncnet": Weights(
        file="syncnet_v2.model",
        url="https://www.robots.ox.ac.uk/~vgg/software/lipsync/data/syncnet_v2.model",
        licence="MIT (code)",
        sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        used_by="LSE-C, LSE-D, AV offset, AV confidence",
        mirrors=(
            "https://huggingface.co/ByteDance/LatentSync-1.5/resolve/main/"
            "auxiliary/syncnet_v2.model",
        ),
        size=54_573_114,
    ),
    "vgg19": Weights(
        file="vgg19-dcbb9e9d.pth",
        url="https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        licence="BSD-3-Clause",
        sha256="dcbb9e9d",
        used_by="training (perceptual loss)",
    ),
}


def folder() -> Path:
    """``$THBENCH_WEIGHTS``, or ``~/.cache/thbench/weights``."""
    given = os.environ.get("THBENCH_WEIGHTS")
    return Path(given) if given else Path.home() / ".cache" / "thbench" / "weights"


def find(name: str) -> Path:
    """The file of that name in ``WEIGHTS``, its hash checked.

    Raises:
        WeightsMissing: it is not in the folder, or has another hash.
    """
    entry = WEIGHTS[name]
    path = folder() / entry.file
    if not path.is_file():
        raise WeightsMissing(
            f"run `thbench weights pull {name}`, or download {entry.url} ({entry.licence})"
            f"{_unpacked(entry)} into ~/.cache/thbench/weights, or set THBENCH_WEIGHTS to the"
            " folder that holds it"
        )
    if not matches(path, entry):
        raise WeightsMissing(
            f"{entry.file} is not the published file (its hash differs): run"
            f" `thbench weights pull {name}`, which replaces it by {entry.url}"
        )
    return path


def _unpacked(entry: Weights) -> str:
    return f" and put its {entry.member}" if entry.member else ""


def matches(path: Path, entry: Weights) -> bool:
    """Whether the file has the published hash. An entry without any hash matches nothing."""
    if entry.sha256:
        return sha256(path).startswith(entry.sha256)
    return entry.git_blob is not None and git_blob(path) == entry.git_blob


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def git_blob(path: Path) -> str:
    """The SHA-1 under which git stores a file, in hex."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    for block in _blocks(path):
        digest.update(block)
    return digest.hexdigest()


def load_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file, by name, on the CPU.

    Neither format can run code here: PyTorch's is read with ``weights_only``. A TorchScript
    archive is refused too, since building its module runs what the file says.

    Raises:
        WeightsUnreadable: the file is damaged, of another format, or holds more than tensors.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # unpickling a damaged file can raise nearly anything
        reason = str(error).strip().partition("\n")[0]
        raise WeightsUnreadable(
            f"{path.name} is no file of weights alone ({reason}): get it again"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(
        isinstance(v, torch.Tensor) for v in state.values()
    ):
        raise WeightsUnreadable(
            f"{path.name} holds other things than tensors by name: get it again"
        )
    return dict(state)


def fill(net: nn.Module, path: Path) -> None:
    """Load a file's tensors into a network.

    Raises:
        WeightsUnreadable: as for ``load_state``; or they are another network's.
    """
    try:
        net.load_state_dict(load_state(path))
    except RuntimeError as error:
        raise WeightsUnreadable(
            f"{path.name} holds the weights of another network: get it again"
        ) from error


def digest(path: Path) -> str:
    """Twelve digits that tell a weight file from others."""
    return sha256(path)[:12]


def _blocks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
