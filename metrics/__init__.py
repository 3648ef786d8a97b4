"""Metrics of talking-head video: tensors in, numbers out. Nothing here imports thbench.

A metric is a module with a pure functional core and a thin class over it, named in ``METRICS``;
the networks whose features metrics compare are in ``metrics.extractors``.
"""

METRICS = {
    "av-confidence": "metrics.syncnet:AVConfidence",
    "av-offset": "metrics.syncnet:AVOffset",
    "bas": "metrics.beats:BAS",
    "blink-duration": "metrics.blink:BlinkDuration",
    "blinks": "metrics.blink:BlinkRate",
    "cpbd": "metrics.sharpness:CPBD",
    "csim": "metrics.identity:CSIM",
    "diversity": "metrics.diversity:Diversity",
    "dr": "metrics.degradation:DegradationRate",
    "e-fid": "metrics.efid:EFID",
    "eyebrow-dynamics": "metrics.theval:EyebrowDynamics",
    "f-mse": "metrics.flow:FrameMSE",
    "faces-found": "metrics.motion:FacesFound",
    "fd-pyramid": "metrics.fid:PyramidDistance",
    "fd-synthetic": "metrics.fid:SyntheticFD",
    "fid": "metrics.fid:FID",
    "fvd": "metrics.fvd:FVD",
    "fvd-synthetic": "metrics.fid:SyntheticFVD",
    "head-motion-dynamics": "metrics.theval:HeadMotionDynamics",
    "kid": "metrics.kid:KID",
    "lip-dynamics": "metrics.theval:LipDynamics",
    "lip-sync": "metrics.theval:LipSync",
    "lmd": "metrics.landmarks:LMD",
    "lmd-dtw": "metrics.soft_dtw:SoftLMD",
    "lpips": "metrics.perceptual:LPIPS",
    "lse-c": "metrics.syncnet:LSEC",
    "lse-d": "metrics.syncnet:LSED",
    "mouth-amplitude": "metrics.motion:MouthAmplitude",
    "mouth-r": "metrics.motion:MouthCorrelation",
    "mouth-r-dtw": "metrics.soft_dtw:SoftMouthCorrelation",
    "mse": "metrics.image:MSE",
    "ofm": "metrics.flow:OFM",
    "pose-error": "metrics.motion:PoseError",
    "psnr": "metrics.image:PSNR",
    "psnr-dtw": "metrics.soft_dtw:SoftPSNR",
    "silent-lip-stability": "metrics.theval:SilentLipStability",
    "ssim": "metrics.image:SSIM",
    "theval-score": "metrics.theval_score:THEvalScore",
    "wer": "metrics.wer:WER",
}
"""Short names, as protocols use them, and the classes they stand for."""
