"""Video files whose frames come back to the bit, so that figures can be told beforehand."""

import av
import numpy as np


def save(path, frames):
    """An mp4 at 25 fps of frames (T, H, W, 3) uint8, or of grey ones (T, H, W)."""
    frames = np.asarray(frames, np.uint8)
    if frames.ndim == 3:
        frames = np.repeat(frames[..., None], 3, axis=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            container.mux(stream.encode(made))
        container.mux(stream.encode())
