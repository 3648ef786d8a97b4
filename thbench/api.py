"""The Python API: what the commands do, as functions. They are also to be had as ``thbench.load``,
``thbench.generate`` and so on.

The commands call the same code, so a function does what its command does: the same checks, files
and seeds. Torch is imported when a function is called and its arguments have been checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from thbench import config as configs
from thbench.config import Config
from thbench.core.errors import UserError
from thbench.core.files import check_video

if TYPE_CHECKING:
    from thbench.core.types import Cost, Generation
    from thbench.evaluation.protocol import Protocol
    from thbench.evaluation.results import Result
    from thbench.generation.assemble import Assembled

__all__ = ["UserError", "evaluate", "fit", "generate", "load", "score"]

SCORED_BY = "dawn"
"""The protocol by which recordings are scored where the user names none."""


def load(strategy: str | Path, *overrides: str) -> Assembled:
    """A trained strategy, put together.

    Args:
        strategy: a name from ``thbench ls strategies``, or a path to a YAML file.
        overrides: ``key=value`` words, as on the command line.

    Returns:
        The strategy, in eval mode on the CPU (``.strategy``), its configuration (``.config``),
        what each network's checkpoint says of itself (``.metadata``), and in words which weights it
        has, own runs' or those shipped with thbench (``.weights``).

    Raises:
        UserError: a key or value is wrong, or a stage is not trained.

    Example:
        ```python
        import thbench

        dawn = thbench.load("dawn", "scale=tiny")
        print(dawn.run, dawn.samples_seen)
        ```
    """
    config = _configured(strategy, overrides)
    from thbench.generation.assemble import assemble

    return assemble(config)


def generate(
    strategy: str | Path | Assembled,
    *overrides: str,
    image: str | Path,
    audio: str | Path,
    out: str | Path,
    motion: str | Path | None = None,
    seed: int = 0,
    watermark: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> tuple[Path, Cost]:
    """Generate a video of a portrait that says what an audio file says, as ``thbench generate``.

    Args:
        strategy: what ``load`` returned, which saves loading it again for every video; or a name or
            path, as ``load`` takes it.
        overrides: ``key=value`` words, for a name or path alone.
        image: an image file with one face.
        audio: any file with speech; its length is the video's.
        out: the mp4 to write.
        motion: a video whose head motion and blinks are followed; it must be as long as the audio.
        seed: of the noise: the same seed gives the same video.
        watermark: draw a visible mark.
        overwrite: replace ``out`` where it exists.
        progress: say which weights are used, and show a progress bar.

    Returns:
        The path of the mp4 (25 fps, with the audio), and what generating it cost: seconds, network
        calls, frames evaluated.

    Raises:
        UserError: a file is missing or cannot be written, no face or audio is found, a stage is
            not trained, or a key or value is wrong.

    Example:
        ```python
        import thbench

        dawn = thbench.load("dawn", "scale=tiny")
        path, cost = thbench.generate(dawn, image="me.png", audio="hello.wav", out="hello.mp4")
        print(path, f"{cost.seconds:.1f} s")
        ```
    """
    generation = write_generation(
        strategy,
        overrides,
        image=Path(image),
        audio=Path(audio),
        out=Path(out),
        motion=Path(motion) if motion else None,
        seed=seed,
        watermark=watermark,
        overwrite=overwrite,
        progress=progress,
    )
    return Path(out), generation.cost


def score(
    videos: str | Path,
    reference: str | Path,
    protocol: str | Path | Protocol | None = None,
    *,
    name: str | None = None,
    split: str = "test",
    by: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Result:
    """Score a folder of videos, whatever generated them, as ``thbench score``. Nothing is written.

    Args:
        videos: a folder of videos, named as the reference's clips are.
        reference: the ground truth: a prepared data set, or any folder of videos.
        protocol: a name from ``thbench ls protocols``, a path to a YAML file, or a protocol; by
            default ``synthetic`` for synthetic data and ``dawn`` for recordings.
        name: of the row; by default the folder's.
        split: of a prepared reference.
        by: a column of its manifest, within whose values metrics are also summed up (``.by``).
        device: where networks run; by default a GPU where there is one.
        progress: show a progress bar.

    Returns:
        The result: ``.metrics`` holds a value with its interval by metric name, or says why there
        is none; ``.coverage`` counts the clips; ``.per_clip`` has a row for each.

    Raises:
        UserError: a folder, protocol or column is missing, or no video can be scored.

    Example:
        ```python
        import thbench

        result = thbench.score("videos", "data/synthetic", protocol="synthetic")
        for name, metric in result.metrics.items():
            print(name, metric.value, metric.unit)
        ```
    """
    from thbench.evaluation.score import score as run

    videos = Path(videos)
    chosen = choose_protocol(Path(reference), protocol)
    name = name or videos.resolve().name
    return run(
        videos,
        Path(reference),
        chosen,
        run=f"{name}-{chosen.name}",
        strategy=name,
        split=split,
        by=by,
        named=protocol is not None,
        device=device or best_device(),
        progress=progress,
    )


def fit(strategy: str | Path, *overrides: str, stage: str | None = None) -> dict[str, Path]:
    """Train the stages that a strategy still lacks, as ``thbench fit``.

    All that can be checked is checked before the first step. Each stage goes on from its last
    checkpoint.

    Args:
        strategy: a name from ``thbench ls strategies``, or a path to a YAML file.
        overrides: ``key=value`` words, as on the command line.
        stage: train this stage alone.

    Returns:
        The folder of each stage's run, by stage.

    Raises:
        UserError: a key, a value, the data set or this machine stands against the training.

    Example:
        ```python
        import thbench

        folders = thbench.fit("dawn", "scale=tiny", "data=synthetic")
        print(folders["a2v2"] / "last.ckpt")
        ```
    """
    return fit_config(_configured(strategy, overrides), stage)


def evaluate(
    strategy: str | Path, *overrides: str, smoke: bool = False, yardstick: str | None = None
) -> Result | None:
    """Generate a split's videos, score them and write the result, as ``thbench eval``.

    Args:
        strategy: a name from ``thbench ls strategies``, or a path to a YAML file.
        overrides: ``key=value`` words, as on the command line: ``eval.limit=8`` and so on.
        smoke: mark the result as a smoke test's even at paper scale.
        yardstick: make a row to compare with in place of the strategy's, of the same requests:
            ``still``, ``nearest``, ``shuffled`` or ``ground-truth``
            (``thbench.evaluation.yardsticks``).

    Returns:
        The result, which also lies in the folder ``results=`` names; None in processes other than
        the first of a run over several devices.

    Raises:
        UserError: a key or value is wrong, a stage is not trained, or no video can be scored.

    Example:
        ```python
        import thbench

        result = thbench.evaluate("dawn", "scale=tiny", "eval.limit=8")
        print(result.metrics["PSNR"].value)
        ```
    """
    written = evaluate_config(_configured(strategy, overrides), smoke, yardstick)
    return written[0] if written else None


# What commands and functions share.


def write_generation(
    strategy: str | Path | Assembled,
    overrides: tuple[str, ...],
    *,
    image: Path,
    audio: Path,
    out: Path,
    motion: Path | None,
    seed: int,
    watermark: bool,
    overwrite: bool,
    progress: bool,
) -> Generation:
    """Generate one video and write it; see ``generate`` for the arguments and errors.

    Returns:
        The generation, whose chunks have been consumed.
    """
    check_video(out, overwrite)
    config = _configured(strategy, overrides) if isinstance(strategy, str | Path) else None
    for path in (image, audio, motion):
        if path and not path.is_file():
            raise UserError(f"There is no file {path}.")
    from thbench.generation import assemble, execution, requests, runner, writer

    if isinstance(strategy, assemble.Assembled):
        if overrides:
            raise UserError(f"'{overrides[0]}': say it to thbench.load, for it is loaded already.")
        assembled, config = strategy, strategy.config
    else:
        assert config is not None
        assembled = assemble.assemble(config)
        if progress:
            print(f"weights: {', '.join(assembled.weights)}", flush=True)
    request = requests.from_files(
        image, audio, config.data.audio, config.size, motion=motion, seed=seed
    )
    tags = writer.tags_of(config.strategy, assembled.run, seed)
    with execution.on_one_device(assembled.strategy, device_of(config), config.trainer):
        generation = runner.generate(assembled.strategy, request)
        writer.write_video(out, generation, tags, watermark, progress=progress)
    return generation


def fit_config(config: Config, only: str | None) -> dict[str, Path]:
    """Check a training, then train; see ``fit``."""
    from thbench.training import fit as training
    from thbench.training.tracking import check

    check(config.tracking)
    check_first(config, only)  # before hours of training, not after
    return training.fit(config, only)


def check_first(config: Config, only: str | None) -> None:
    """Check a training that is about to start; print errors, warnings and the verdict.

    Raises:
        UserError: it cannot end well.
    """
    from thbench.core import console
    from thbench.preflight import checks, report

    if not console.is_rank_zero():
        return  # the first process has checked
    with console.quiet():
        # Tiny networks fit anywhere; estimates for a paper's are worth some seconds.
        costly = config.scale == "paper"
        found = checks.check(config, only, estimates=costly, metrics=False)
    for finding in report.merge_repeated(found.of(report.WARNING)):
        print(f"warning: {finding.where}: {finding.text}")
    errors = report.merge_repeated(found.of(report.ERROR))
    for finding in errors[1:]:
        print(f"error: {finding.where}: {finding.text}")
    if errors:
        where = "" if errors[0].where == "settings" else f"{errors[0].where}: "
        more = f" ({len(errors) - 1} more above)" if errors[1:] else ""
        raise UserError(f"{where}{errors[0].text}{more}")
    print(found.verdict, flush=True)


def evaluate_config(
    config: Config, smoke: bool, yardstick: str | None = None
) -> tuple[Result, Path] | None:
    """Generate, score and write; see ``evaluate``. Also returns where the result was written."""
    from thbench.evaluation import pipeline, tracking, yardsticks
    from thbench.training.tracking import check

    check(config.tracking)  # before hours of generating, not after
    origin = "smoke" if smoke or config.scale == "tiny" else "measured"
    device = device_of(config)
    if yardstick is None:
        result = pipeline.evaluate(config, device=device, origin=origin)
    else:
        result = yardsticks.evaluate(config, yardstick, device=device, origin=origin)
    if result is None:
        return None
    path = pipeline.write_result(config, result)
    tracking.track(config, result)
    return result, path


def choose_protocol(reference: Path, protocol: str | Path | Protocol | None) -> Protocol:
    """The protocol that is named, else the one for the reference's kind of data; see ``score``."""
    from thbench.evaluation import protocol as protocols

    if isinstance(protocol, protocols.Protocol):
        return protocol
    return protocols.load(str(protocol or protocols.default(reference, SCORED_BY)))


def device_of(config: Config) -> str:
    """``cuda`` or ``cpu``: the device of a single process, as ``trainer.accelerator`` says.

    Raises:
        UserError: there is none of its kind here.
    """
    wanted, best = config.trainer.accelerator, best_device()
    if wanted == "cpu" or best == "cpu":
        if wanted not in ("auto", "cpu"):
            raise UserError(f"trainer.accelerator={wanted}: there is no such device here.")
        return "cpu"
    return best


def best_device() -> str:
    """``cuda`` where torch sees a GPU, else ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _configured(strategy: object, overrides: tuple[str, ...]) -> Config:
    return configs.load(str(strategy), overrides)
