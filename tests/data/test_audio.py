from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from thbench.core.errors import UserError
from thbench.data.embedding import encoders, wav2vec
from thbench.data.media import audio, video

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2,
}  # fmt: skip


def click(at: int, n: int = 16000) -> np.ndarray:
    wave = np.zeros(n, np.float32)
    wave[at : at + 160] = 0.8 * np.sin(np.arange(160))
    return wave


def write_sound(path: Path, codec: str, rate: int, layout: str, seconds: float = 1.0) -> None:
    t = np.arange(int(rate * seconds)) / rate
    wave = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        channels = np.tile(wave, (2 if layout == "stereo" else 1, 1))
        frame = av.AudioFrame.from_ndarray(channels, format="fltp", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [("a.wav", "pcm_s16le", 8000, "mono"), ("a.wav", "pcm_s24le", 48000, "stereo"),
     ("a.mp3", "libmp3lame", 44100, "stereo"), ("a.m4a", "aac", 22050, "mono")],
)  # fmt: skip
def test_any_sound_is_16_khz_mono(
    tmp_path: Path, name: str, codec: str, rate: int, layout: str
) -> None:
    write_sound(tmp_path / name, codec, rate, layout)
    wave = audio.load(tmp_path / name)
    assert wave.dtype == np.float32
    assert wave.ndim == 1
    assert abs(len(wave) - 16000) < 2500  # codecs pad to their frames
    middle = wave[4000:12000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 220
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.1)


def test_sound_in_a_video_stays_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with video.VideoWriter(path, 64, 64, waveform=click(8000)) as writer:
        for _ in range(5):
            writer.write(torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
    wave = audio.load(path)
    assert 0 <= len(wave) - 25 * 640 < 1024
    assert abs(int(np.correlate(wave, click(8000)[8000:8160]).argmax()) - 8000) <= 2


def test_wav_round_trip_and_length(tmp_path: Path) -> None:
    audio.write_wav(tmp_path / "a.wav", click(300))
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav"), click(300), atol=1e-4)
    assert len(audio.fit_length(click(0), 30)) == 30 * 640
    assert len(audio.fit_length(click(0), 3)) == 3 * 640


def test_no_sound_is_explained(tmp_path: Path) -> None:
    with video.VideoWriter(tmp_path / "a.mp4", 64, 64) as writer:
        writer.write(torch.zeros(5, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UserError, match="no audio"):
        audio.load(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="no file"):
        audio.load(tmp_path / "b.wav")


def test_log_mel_is_aligned_to_frames() -> None:
    encode = encoders.encoder("logmel")
    features = encode(click(10 * 640 + 240), 25).reshape(25, 8, 40)
    own = features[:, 2:6].mean((1, 2))
    assert own.argmax() == 10
    quiet = features[0, 0, 0]
    touched = [t for t in range(25) if features[t].max() > quiet]
    assert touched == [9, 10, 11]  # the context reaches two columns, 20 ms, to each side
    np.testing.assert_array_equal(features[10, 6:], features[11, 2:4])
    assert features.shape[1] * features.shape[2] == encode.dim


def test_log_mel_scale_and_length() -> None:
    rng = np.random.default_rng(0)
    speech_like = rng.normal(0, 0.03, 16000 * 60).astype(np.float32)
    features = encoders.encoder("logmel")(speech_like, 1500)
    assert features.shape == (1500, 320)
    assert abs(features.mean()) < 1.5
    louder = encoders.encoder("logmel")(speech_like * 10, 1500)
    assert (louder - features).mean() == pytest.approx(20 / encoders.LogMel.deviation, rel=0.01)
    assert np.isfinite(encoders.encoder("logmel")(np.zeros(10), 2)).all()


@pytest.mark.parametrize(
    ("name", "model", "config"),
    [("hubert", HubertModel, HubertConfig), ("wav2vec2", Wav2Vec2Model, Wav2Vec2Config)],
)
def test_transformers_load_and_align(tmp_path: Path, name: str, model: type, config: type) -> None:
    torch.manual_seed(0)
    model(config(**SMALL)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path)
    encode = encoders.encoder(f"{name}={tmp_path}")
    assert encode is encoders.encoder(f"{name}={tmp_path}")
    assert encode.dim == 16
    wave = np.random.default_rng(0).normal(0, 0.1, 3 * 16000).astype(np.float32)
    features = encode(wave, 75)
    assert features.shape == (75, 16)
    assert features.dtype == np.float32
    normal = torch.from_numpy((wave - wave.mean()) / wave.std())[None]
    with torch.inference_mode():
        states = encode._model(normal).last_hidden_state[0].numpy()
    # frame 10's centre, sample 6720, lies at state 20.375
    expected = 0.625 * states[20] + 0.375 * states[21]
    np.testing.assert_allclose(features[10], expected, atol=1e-3)
    assert encode(np.zeros(1), 1).shape == (1, 16)


def test_all_layers_stand_side_by_side(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = 3
    Wav2Vec2Model(Wav2Vec2Config(**{**SMALL, "num_hidden_layers": layers})).save_pretrained(
        tmp_path
    )
    last, every = (encoders.encoder(f"{n}={tmp_path}") for n in ("wav2vec2", "wav2vec2-layers"))
    wave = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    assert every.dim == 16 * layers
    found = every(wave, 25)
    assert found.shape == (25, 16 * layers)
    np.testing.assert_allclose(found[:, -16:], last(wave, 25), atol=1e-5)
    assert np.abs(found[:, :16] - found[:, -16:]).max() > 0.01
    assert encoders.Wav2Vec2Layers.default_dim == 9216


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (Wav2Vec2Model, Wav2Vec2Config(**SMALL)),  # a group norm, as the base model
        (HubertModel, HubertConfig(**SMALL, feat_extract_norm="layer", conv_bias=True)),
    ],
    ids=["group norm", "layer norm"],
)
def test_convolutions_of_long_sound_are_those_of_the_whole(model: type, config: Any) -> None:
    torch.manual_seed(0)
    extractor = model(config).eval().feature_extractor
    loudness = torch.linspace(0.01, 1, 5 * 16000 + 77)
    wave = loudness * torch.randn(len(loudness))
    with torch.inference_mode():
        whole = extractor(wave[None])
        for piece in (7, 100, 249, 9999):
            parts = wav2vec.convolve_in_chunks(extractor, wave, piece)
            assert parts.shape == whole.shape
            assert (parts - whole).abs().max() < 1e-4 * whole.abs().max()
        assert torch.equal(extractor(wave[None]), whole)  # nothing is left behind


def test_states_of_long_sound_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute whose loudness changes: transformers' own call of the base model's kind."""
    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config(**SMALL)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    encode = encoders.encoder(f"wav2vec2={tmp_path}")
    rng = np.random.default_rng(0)
    wave = (np.linspace(0, 0.3, 65 * 16000) * rng.normal(0, 1, 65 * 16000)).astype(np.float32)
    with torch.inference_mode():
        states = Wav2Vec2Model.from_pretrained(tmp_path).eval()(torch.from_numpy(wave)[None])
    expected = states.last_hidden_state[0].numpy()
    # frame 10's centre, sample 6720, lies at state 20.375; frame 1610's at 3220.375
    features = encode(wave, 65 * 25)
    for frame, state in ((10, 20), (1610, 3220)):
        wanted = 0.625 * expected[state] + 0.375 * expected[state + 1]
        np.testing.assert_allclose(features[frame], wanted, atol=2e-4)
    monkeypatch.setattr(encoders.Wav2Vec2, "chunk", 20)
    monkeypatch.setattr(encoders.Wav2Vec2, "overlap", 5)
    pieces = encode(wave, 65 * 25)
    assert np.linalg.norm(pieces - features) < 0.01 * np.linalg.norm(features - features.mean(0))


def test_missing_weights_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="hubert=FOLDER"):
        encoders.encoder(f"hubert={tmp_path / 'nowhere'}")
    HubertModel(HubertConfig(**SMALL)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds a hubert"):
        encoders.encoder(f"wav2vec2={tmp_path}")
    with pytest.raises(UserError, match="Did you mean 'hubert'"):
        encoders.encoder("huberd")
