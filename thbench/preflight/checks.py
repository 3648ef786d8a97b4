"""What can be known of a training before its first step.

Each check adds findings to a report and leaves the rest to the others, so that one run lists all
that has to be put right. An error is what training cannot end well with; a warning is what makes
it end otherwise than one may expect, or what stands against evaluation alone.
"""

from __future__ import annotations

from thbench.config import Config
from thbench.core.errors import UserError
from thbench.data import manifest
from thbench.data.datamodule import check_root
from thbench.generation import assemble
from thbench.preflight import compute, data, disk, evaluation, stages
from thbench.preflight.context import Preflight, Rate
from thbench.preflight.report import ERROR, Finding, Report, StageReport
from thbench.training.runs import order, training_order


def check(
    config: Config,
    only: str | None = None,
    *,
    files: bool = True,
    estimates: bool = True,
    metrics: bool = True,
    rate: Rate | None = None,
) -> Report:
    """Check a strategy's training.

    Args:
        config: a strategy's configuration.
        only: check this stage alone, with those that it builds on.
        files: check the clips' own files too, not the manifest alone.
        estimates: trace a step of each stage for memory and time, which takes some seconds each.
        metrics: find out which metrics ``eval`` will have, which reads their weights.
        rate: FLOP/s of a large matrix product by precision; None measures it on this machine.

    Returns:
        All findings. A configuration or data set that cannot be read is an error among them.
    """
    report = Report(config.strategy, f"{config.strategy} scale={config.scale} {config.data.root}")
    try:
        assemble.check(config)
        order(config, only)  # wrong settings are told before missing data
        check_root(config.data.root)
        names, taken = training_order(config, only)
        clips = manifest.read(config.data.root)
    except UserError as error:
        report.findings.append(Finding(ERROR, "settings", str(error)))
        return report
    run = Preflight(config, clips, report, files, rate)
    data.check_files(run, names)
    data.check_encoder(run)
    data.check_size(run)
    for name, shipped in taken.items():
        report.stages.append(StageReport(name, shipped.steps, trained=True, shipped=True))
    for name in names:
        stages.check_stage(run, name, estimates)
    stages.check_assembly(run, only)
    compute.report_device(run)
    if not only:
        evaluation.check_test_split(run)
        evaluation.check_metrics(run, metrics)
    disk.check_disk(run)
    return report
