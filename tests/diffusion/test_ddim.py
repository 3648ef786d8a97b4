import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.diffusion import ddim
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.noise_schedule import PREDICTIONS, SCHEDULES
from thbench.diffusion.process import sample_together


def latents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def reference(schedule, prediction, zero_snr, spacing, steps):
    scheduler = DDIMScheduler(
        1000, 1e-4, 0.02, SCHEDULES[schedule], clip_sample=False, set_alpha_to_one=True,
        steps_offset=0, prediction_type=PREDICTIONS[prediction], thresholding=False,
        timestep_spacing=spacing, rescale_betas_zero_snr=zero_snr,
    )  # fmt: skip
    scheduler.alphas_cumprod = torch.cumprod(1 - scheduler.betas.double(), 0)  # 7 digits are few
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("spacing", ddim.SPACINGS)
@pytest.mark.parametrize("steps", [2, 7, 20, 1000])
def test_grid_is_diffusers_timesteps_plus_one_then_zero(spacing, steps):
    levels = ddim.grid(GaussianDiffusion(), SamplerConfig(steps=steps, spacing=spacing))
    theirs = reference("cosine", "epsilon", False, spacing, steps).timesteps
    assert levels.dtype == torch.int64
    assert levels[-1] == 0
    assert (levels[:-1] - 1).sub(theirs).abs().max() <= (spacing == "linspace")  # ties in rounding
    assert (levels.diff() < 0).all()
    assert levels[0] == 1000 or spacing == "leading"


def test_one_step_starts_at_pure_noise():
    for spacing in ("linspace", "trailing"):
        levels = ddim.grid(GaussianDiffusion(), SamplerConfig(steps=1, spacing=spacing))
        assert levels.tolist() == [1000, 0]


KINDS = [
    (schedule, zero_snr, prediction)
    for schedule, zero_snr in (("cosine", False), ("linear", False), ("linear", True))
    for prediction in PREDICTIONS
    if not (zero_snr and prediction == "epsilon")
]


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("schedule", "zero_snr", "prediction"), KINDS)
def test_step_is_ddim_scheduler_step_where_all_frames_are_level(
    prediction, eta, schedule, zero_snr
):
    process = GaussianDiffusion(schedule, 1000, prediction, zero_snr=zero_snr)
    config = SamplerConfig(steps=20, eta=eta, spacing="trailing", threshold=None)
    theirs = reference(schedule, prediction, zero_snr, "trailing", 20)
    levels = ddim.grid(process, config)
    for i in (0, 1, 10, 18, 19):
        noisy, noise = latents(2, 3, 4, 2, 2, seed=i), latents(2, 3, 4, 2, 2, seed=99)
        predicted = latents(2, 3, 4, 2, 2, seed=50 + i)
        t, s = (torch.full((2, 4), int(level)) for level in levels[i : i + 2])
        ours = ddim.step(process, noisy, predicted, t, s, noise, config)
        expected = theirs.step(
            predicted.double(), int(t[0, 0]) - 1, noisy.double(), eta=eta,
            variance_noise=noise.double() if eta else None,
        ).prev_sample  # fmt: skip
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)


def test_alpha_bar_is_not_off_by_one():
    """A step 1 -> 0 must use index 0 of the schedule, not 1, and land on the clean value."""
    process = GaussianDiffusion("linear", 10, beta_start=0.1, beta_end=0.5)
    clean, noise = latents(1, 2, 3), latents(1, 2, 3, seed=1)
    noisy = 0.9**0.5 * clean + 0.1**0.5 * noise
    one, zero = torch.ones(1, 3).long(), torch.zeros(1, 3).long()
    config = SamplerConfig(eta=0.0)
    torch.testing.assert_close(ddim.step(process, noisy, noise, one, zero, None, config), clean)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(PREDICTIONS)),
    st.floats(0, 1),
    st.lists(st.integers(0, 900), min_size=4, max_size=4),
)
def test_true_prediction_taken_to_zero_gives_the_clean_value(prediction, eta, levels):
    process = GaussianDiffusion("cosine", 1000, prediction)
    clean, noise, t = latents(1, 2, 4), latents(1, 2, 4, seed=1), torch.tensor([levels])
    noisy = process.add_noise(clean, noise, t)
    predicted = process.target(clean, noise, t)
    made = ddim.step(
        process, noisy, predicted, t, torch.zeros_like(t), latents(1, 2, 4, seed=2),
        SamplerConfig(eta=eta),
    )  # fmt: skip
    torch.testing.assert_close(made, clean, rtol=1e-3, atol=1e-3)


def test_true_noise_at_eta_0_moves_along_the_forward_process_per_frame():
    process = GaussianDiffusion("cosine", 1000)
    clean, noise = latents(2, 3, 3, 2, 2), latents(2, 3, 3, 2, 2, seed=1)
    t, s = torch.tensor([[900, 500, 0], [7, 300, 1]]), torch.tensor([[450, 500, 0], [3, 0, 0]])
    noisy = process.add_noise(clean, noise, t)
    made = ddim.step(process, noisy, noise, t, s, None, SamplerConfig(eta=0.0))
    torch.testing.assert_close(made, process.add_noise(clean, noise, s), rtol=1e-3, atol=1e-3)
    assert torch.equal(made[0, :, 1:], noisy[0, :, 1:])


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_step_keeps_the_marginal_variance(eta):
    """From N(0, 1) noise and no signal, every level must be N(0, 1 - abar_s)."""
    process = GaussianDiffusion("cosine", 1000)
    shape = (1, 100, 2, 10, 10)
    t, s = torch.full((1, 2), 800), torch.full((1, 2), 300)
    noise = latents(*shape)
    noisy = process.add_noise(torch.zeros(shape), noise, t)
    made = ddim.step(process, noisy, noise, t, s, latents(*shape, seed=5), SamplerConfig(eta=eta))
    assert made.var().item() == pytest.approx(1 - process.alpha_bar[300].item(), rel=0.03)


def test_threshold_is_per_window_over_the_moving_frames_only():
    clean = latents(2, 3, 4, 5, 5)
    clean[1] *= 10
    clean[:, :, 0] = 1000
    moving = torch.tensor([[False, True, True, True]]).expand(2, 4)
    result = ddim.threshold(clean, moving, 0.9, 1.0)
    assert torch.equal(result[:, :, 0], clean[:, :, 0])
    for b in range(2):
        limit = torch.quantile(clean[b, :, 1:].abs(), 0.9).clamp(min=1)
        expected = clean[b, :, 1:].clamp(-limit, limit) / limit
        torch.testing.assert_close(result[b, :, 1:], expected)
    assert torch.equal(ddim.threshold(clean[:1], moving[:1], 0.9, 1e4), clean[:1])


def test_threshold_in_a_step_agrees_with_diffusers():
    process = GaussianDiffusion("cosine", 1000)
    theirs = DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, thresholding=True,
        dynamic_thresholding_ratio=0.9, sample_max_value=1e9, timestep_spacing="trailing",
        prediction_type="epsilon",
    )  # fmt: skip
    theirs.set_timesteps(20)
    noisy, predicted = latents(2, 3, 4, 2, 2), latents(2, 3, 4, 2, 2, seed=1)
    t, s = torch.full((2, 4), 500), torch.full((2, 4), 450)
    config = SamplerConfig(eta=0.0, threshold=0.9)
    ours = ddim.step(process, noisy, predicted, t, s, None, config)
    expected = theirs.step(predicted, 499, noisy, use_clipped_model_output=True).prev_sample
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"spacing": "trail"}, "trailing"), ({"steps": 0}, "from 1 to"), ({"steps": 1001}, "1 to")],
)
def test_grid_errors(options, message):
    with pytest.raises(UserError, match=message):
        ddim.grid(GaussianDiffusion(), SamplerConfig(**options))


def test_eta_outside_its_range_is_refused():
    x, t = torch.zeros(1, 1, 1), torch.ones(1, 1).long()
    with pytest.raises(UserError, match="eta"):
        ddim.step(GaussianDiffusion(), x, x, t, t - 1, x, SamplerConfig(eta=1.5))


def test_threshold_0_is_a_plain_clamp():
    clean, moving = 3 * latents(2, 3, 2, 5, 5) + 5, torch.tensor([[True, False]] * 2)
    result = ddim.threshold(clean, moving, 0, 1.0)
    assert torch.equal(result[:, :, 0], clean[:, :, 0].clamp(-1, 1))
    assert torch.equal(result[:, :, 1], clean[:, :, 1])


def test_a_true_prediction_is_sampled_to_the_clean_value():
    process, clean = GaussianDiffusion("cosine", 1000, "x0"), latents(2, 3, 4, 2, 2)
    seen = []

    def predict(noisy, t):
        seen.append(t.clone())
        return clean

    made = sample_together(process, predict, torch.randn_like(clean), SamplerConfig(steps=5))
    torch.testing.assert_close(made, clean)
    assert [t.unique().tolist() for t in seen] == [[1000], [750], [500], [251], [1]]
    assert all(t.shape == (2, 4) for t in seen)
