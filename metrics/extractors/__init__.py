"""The networks, and other descriptors, whose features metrics compare."""

EXTRACTORS = {
    "arcface": "metrics.extractors.arcface:ArcFace",
    "i3d": "metrics.extractors.i3d:I3D",
    "inception": "metrics.extractors.inception:Inception",
    "landmark-expression": "metrics.extractors.expression:LandmarkExpression",
    "lipreader": "metrics.extractors.lipreader:LipReader",
    "pyramid": "metrics.extractors.pyramid:Pyramid",
    "silero-vad": "metrics.extractors.silero:SileroVAD",
    "synthetic-expression": "metrics.extractors.expression:SyntheticExpression",
    "synthetic-face": "metrics.extractors.synthetic:SyntheticFace",
    "synthetic-identity": "metrics.extractors.synthetic:SyntheticIdentity",
    "synthetic-motion": "metrics.extractors.synthetic:SyntheticMotion",
    "synthetic-mouth": "metrics.extractors.synthetic:SyntheticMouth",
    "synthetic-sync": "metrics.extractors.synthetic_sync:SyntheticSync",
    "syncnet": "metrics.extractors.syncnet:SyncNet",
}
"""Feature names, or names that metrics' ``recipes`` use, and the classes that make the features."""
