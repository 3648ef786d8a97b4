"""Video files whose frames and sound come back to the bit: figures can be told beforehand."""

import av
import numpy as np


def save(path, frames, wave=None):
    """A file at 25 fps of frames (T, H, W, 3) uint8, or of grey ones (T, H, W).

    Args:
        path: an mp4, or a mov if there is sound.
        frames: see above.
        wave: (S,) in [-1, 1] at 16 kHz, of any length, kept in 16 bits; None for no sound track.
    """
    frames = np.asarray(frames, np.uint8)
    if frames.ndim == 3:
        frames = np.repeat(frames[..., None], 3, axis=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=25, options={"qp": "0"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24"
        sound = None
        if wave is not None:
            sound = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for frame in frames:
            made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
            container.mux(stream.encode(made))
        container.mux(stream.encode())
        if sound is not None:
            heard = av.AudioFrame.from_ndarray(pcm(wave)[None], "s16", "mono")
            heard.sample_rate = 16000
            container.mux(sound.encode(heard))
            container.mux(sound.encode())
    return path


def pcm(wave):
    """Samples in [-1, 1] in 16 bits."""
    return (np.asarray(wave) * 32767).round().astype(np.int16)
