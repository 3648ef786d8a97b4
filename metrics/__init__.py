"""Metrics of talking-head video: tensors in, numbers out. A leaf: nothing here knows the bench.

A metric is a module with a pure functional core and a thin class over it, named in ``METRICS``;
the networks whose features metrics compare are in ``metrics.extractors``.
"""

METRICS = {
    "blink-duration": "metrics.blink:BlinkDuration",
    "blinks": "metrics.blink:BlinkRate",
    "fd-pyramid": "metrics.fid:PyramidDistance",
    "fid": "metrics.fid:FID",
    "mouth-r": "metrics.motion:MouthCorrelation",
    "pose-error": "metrics.motion:PoseError",
    "psnr": "metrics.image:PSNR",
    "ssim": "metrics.image:SSIM",
}
"""Short names, as protocols use them, and the classes they stand for."""
