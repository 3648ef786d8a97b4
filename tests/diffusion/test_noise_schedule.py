import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from thbench.core.errors import UserError
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.noise_schedule import PREDICTIONS, SCHEDULES


def latents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_level_k_is_scheduler_index_k_minus_1_and_level_0_is_clean(schedule):
    process = GaussianDiffusion(schedule, 100)
    reference = DDIMScheduler(
        100, 1e-4, 0.02, SCHEDULES[schedule], clip_sample=False, rescale_betas_zero_snr=False
    )
    assert process.alpha_bar[0] == 1
    torch.testing.assert_close(
        process.alpha_bar[1:].float(), reference.alphas_cumprod, rtol=1e-4, atol=1e-9
    )
    clean, noise = latents(1, 2, 3, 4, 4), latents(1, 2, 3, 4, 4, seed=1)
    for k in (1, 50, 100):
        ours = process.add_noise(clean, noise, torch.full((1, 3), k))
        theirs = reference.add_noise(clean, noise, torch.tensor([k - 1]))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(process.add_noise(clean, noise, torch.zeros(1, 3).long()), clean)


def test_every_frame_has_its_own_level():
    process = GaussianDiffusion("linear", 10)
    t = torch.tensor([[0, 3, 10], [7, 0, 1]])
    clean, noise = latents(2, 4, 3), latents(2, 4, 3, seed=1)
    noisy = process.add_noise(clean, noise, t)
    for b in range(2):
        for f in range(3):
            abar = process.alpha_bar[t[b, f]].float()
            expected = abar.sqrt() * clean[b, :, f] + (1 - abar).sqrt() * noise[b, :, f]
            torch.testing.assert_close(noisy[b, :, f], expected)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(PREDICTIONS)), st.lists(st.integers(1, 900), min_size=3, max_size=3))
def test_target_inverts_to_clean_and_noise(prediction, levels):
    process = GaussianDiffusion("cosine", 1000, prediction)
    clean, noise, t = latents(1, 2, 3, 2, 2), latents(1, 2, 3, 2, 2, seed=1), torch.tensor([levels])
    noisy = process.add_noise(clean, noise, t)
    target = process.target(clean, noise, t)
    torch.testing.assert_close(process.to_clean(target, noisy, t), clean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(process.to_noise(target, noisy, t), noise, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(process.from_clean(clean, noisy, t), target, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_best_estimate_is_as_wrong_as_it_says_and_knows_the_ends(zero_snr):
    process = GaussianDiffusion(prediction="v", zero_snr=zero_snr)
    torch.manual_seed(0)
    mean = torch.tensor([3.0, -1.0])[:, None, None]
    deviation = torch.tensor([0.5, 2.0])[:, None, None]
    clean = mean + deviation * torch.randn(1000, 2, 1, 8)
    noise = torch.randn_like(clean)
    wrong = []
    for level in (1, 400, 1000):
        t = torch.full((1000, 1), level)
        noisy = process.add_noise(clean, noise, t)
        guess, doubt = process.estimate(noisy, t, mean, deviation)
        wrong.append((guess - clean).square().mean((0, 2, 3)).sqrt())
        torch.testing.assert_close(wrong[-1], doubt.mean((0, 2, 3)), atol=0, rtol=0.05)
    assert (wrong[0] < 0.05).all()
    assert (wrong[0] < wrong[1]).all()
    assert (wrong[1] < wrong[2]).all()
    torch.testing.assert_close(wrong[2], deviation[:, 0, 0], atol=0, rtol=0.05)


def test_zero_snr_has_no_signal_left_and_v_recovers_the_clean_value():
    process = GaussianDiffusion("scaled_linear", 1000, "v", 0.00085, 0.012, zero_snr=True)
    assert process.alpha_bar[-1] == 0
    clean, noise, t = latents(1, 2, 3), latents(1, 2, 3, seed=1), torch.full((1, 3), 1000)
    noisy = process.add_noise(clean, noise, t)
    assert torch.equal(noisy, noise)
    torch.testing.assert_close(process.to_clean(process.target(clean, noise, t), noisy, t), clean)


def test_half_precision_comes_back_as_float32():
    process = GaussianDiffusion("cosine", 10)
    half = latents(1, 2, 3).half()
    assert process.add_noise(half, half, torch.ones(1, 3).long()).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"prediction": "eps"}, "No prediction 'eps'"),
        ({"steps": 0}, "at least 1 step"),
        ({"zero_snr": True}, "zero_snr needs"),
    ],
)
def test_errors(options, message):
    with pytest.raises(UserError, match=message):
        GaussianDiffusion(**options)


def test_levels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        GaussianDiffusion().add_noise(latents(2, 3, 4), latents(2, 3, 4), torch.ones(4, 2).long())
