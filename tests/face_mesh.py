"""Face Mesh's outlines as MediaPipe 0.10.21 connects its points; each ends where it starts."""

from itertools import pairwise

FACE_OVAL = (
    10, 109, 67, 103, 54, 21, 162, 127, 234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377,
    400, 378, 379, 365, 397, 288, 361, 323, 454, 356, 389, 251, 284, 332, 297, 338, 10,
)  # fmt: skip
RIGHT_EYE = (7, 33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7)
LEFT_EYE = (249, 263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249)
LIPS_OUTSIDE = (
    0, 37, 39, 40, 185, 61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0,
)  # fmt: skip
LIPS_INSIDE = (
    13, 82, 81, 80, 191, 78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13,
)  # fmt: skip


def edges(*outlines: tuple[int, ...]) -> set[frozenset[int]]:
    """The pairs of points that outlines connect."""
    return {frozenset(pair) for line in outlines for pair in pairwise(line)}
