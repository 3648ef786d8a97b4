"""The networks, and other descriptors, whose features metrics compare."""

EXTRACTORS = {
    "inception": "metrics.extractors.inception:Inception",
    "pyramid": "metrics.extractors.pyramid:Pyramid",
}
"""Feature names and the classes that make them."""
