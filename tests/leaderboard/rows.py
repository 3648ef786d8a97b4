"""Made-up results for the tests of this folder."""

from thbench.evaluation.results import (
    CostSummary,
    Coverage,
    DataRef,
    MetricValue,
    ProtocolRef,
    Result,
)


def figure(value, direction="higher", **kwargs):
    return MetricValue(value, direction, n=4, **kwargs)


def result(
    run,
    *,
    fd=5.0,
    protocol_hash="abc",
    digest="d",
    clips="c",
    split="test",
    version=1,
    extractors=("pyramid-1",),
    metrics=None,
    seconds=None,
    hardware="CPU",
    scored=4,
    origin="measured",
):
    metrics = metrics or {
        "FD": figure(fd, "lower", version=version, extractors=extractors),
        "PSNR": figure(30.0, interval=(29.0, 31.0), unit="dB"),
        "Blink/s": figure(0.4, "reference", reference=0.5),
    }
    cost = None if seconds is None else CostSummary(seconds, 0.1, 25, 20, 20, 500, hardware, 4)
    return Result(
        run=run,
        strategy="dawn",
        title="DAWN",
        origin=origin,
        protocol=ProtocolRef("synthetic", protocol_hash),
        data=DataRef("synth", digest, split, clips),
        metrics=metrics,
        coverage=Coverage(4, scored),
        cost=cost,
        seeds=(0,),
    )
