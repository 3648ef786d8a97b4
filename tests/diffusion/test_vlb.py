"""The bound and the learned variance, against the formulas written out for scalars."""

import math

import pytest
import torch

from thbench.config import SamplerConfig
from thbench.core.errors import UserError
from thbench.diffusion import ddim
from thbench.diffusion.gaussian import GaussianDiffusion
from thbench.diffusion.vlb import bound_term, log_mass

LEARNED = GaussianDiffusion("cosine", 1000, variance="learned")


def latents(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain_posterior(x0, xt, t, s):
    """Mean and variance of q(x_s | x_t, x_0), Ho et al. (2020) eqs. 6 and 7, in double."""
    abar_t, abar_s = (float(LEARNED.alpha_bar[k]) for k in (t, s))
    alpha = abar_t / abar_s
    beta = 1 - alpha
    mean = math.sqrt(abar_s) * beta / (1 - abar_t) * x0
    mean += math.sqrt(alpha) * (1 - abar_s) / (1 - abar_t) * xt
    return mean, (1 - abar_s) / (1 - abar_t) * beta, beta


def cdf(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


def plain_term(x0, xt, eps, v, t):
    """One scalar's term in bits: Nichol and Dhariwal (2021), eqs. 4 to 7 and 15."""
    abar = float(LEARNED.alpha_bar[t])
    guess = (xt - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    mean, _, beta = plain_posterior(guess, xt, t, t - 1)
    least = plain_posterior(0, 0, max(t, 2), max(t, 2) - 1)[1]
    var = math.exp((v + 1) / 2 * math.log(beta) + (1 - v) / 2 * math.log(least))
    if t == 1:
        low = -math.inf if x0 < -0.999 else x0 - 1 / 255
        high = math.inf if x0 > 0.999 else x0 + 1 / 255
        mass = cdf((high - mean) / var**0.5) - cdf((low - mean) / var**0.5)
        return -math.log2(mass)
    true, q = plain_posterior(x0, xt, t, t - 1)[:2]
    kl = 0.5 * (math.log(var / q) + (q + (true - mean) ** 2) / var - 1)
    return kl / math.log(2)


@pytest.mark.parametrize(("t", "s"), [(1000, 999), (2, 1), (1, 0), (700, 300), (6, 0), (1000, 995)])
def test_transitions_are_those_of_the_respaced_process(t, s):
    like = torch.zeros(1, 1, 1)
    forward, posterior = LEARNED.transition(torch.tensor([[t]]), torch.tensor([[s]]), like)
    _, expected, beta = plain_posterior(0, 0, t, s)
    assert forward.item() == pytest.approx(beta, rel=1e-4)
    assert posterior.item() == pytest.approx(expected, rel=1e-4, abs=1e-12)


@pytest.mark.parametrize("t", [1, 2, 3, 50, 500, 999])
@pytest.mark.parametrize("x0", [-1.0, 0.2, 1.0])
def test_a_term_is_the_formula_written_out(t, x0):
    x0 = round((x0 + 1) * 127.5) / 127.5 - 1
    clean, level = torch.tensor([[[x0]]]), torch.tensor([[t]])
    noisy = LEARNED.add_noise(clean, torch.tensor([[[0.3]]]), level)
    for v in (-1.0, 0.4, 1.0):
        output = torch.tensor([[[0.35], [v]]])
        expected = plain_term(x0, noisy.item(), 0.35, v, t)
        made = bound_term(LEARNED, output, clean, noisy, level)
        assert made.shape == (1, 1)
        assert made.item() == pytest.approx(expected, rel=5e-3, abs=1e-4)


def test_a_term_is_the_mean_over_the_elements_of_its_frame():
    clean, noise, t = latents(2, 3, 4, 5, 5), latents(2, 3, 4, 5, 5, seed=1), torch.tensor(
        [[1, 2, 500, 1000], [7, 1, 300, 40]]
    )  # fmt: skip
    clean = clean.clamp(-1, 1)
    noisy, output = LEARNED.add_noise(clean, noise, t), latents(2, 6, 4, 5, 5, seed=2)
    whole = bound_term(LEARNED, output, clean, noisy, t)
    for b in range(2):
        for f in range(4):
            at = (slice(b, b + 1), slice(None), slice(f, f + 1))
            one = bound_term(LEARNED, output[at], clean[at], noisy[at], t[b : b + 1, f : f + 1])
            torch.testing.assert_close(whole[b, f], one[0, 0])
    assert whole.isfinite().all()


def test_the_bound_trains_the_variance_and_not_the_prediction():
    clean, t = latents(1, 3, 2, 4, 4).clamp(-1, 1), torch.tensor([[1, 400]])
    noisy = LEARNED.add_noise(clean, latents(1, 3, 2, 4, 4, seed=1), t)
    output = latents(1, 6, 2, 4, 4, seed=2).requires_grad_()
    bound_term(LEARNED, output, clean, noisy, t).sum().backward()
    assert not output.grad[:, :3].any()
    assert output.grad[:, 3:].isfinite().all()
    assert output.grad[:, 3:, 1].any()


def test_the_masses_of_all_8_bit_values_sum_to_one():
    values = torch.arange(256).float() / 127.5 - 1
    for mean, variance in ((0.1, 0.05), (-1.2, 1.0), (0.99, 1e-3)):
        logs = log_mass(values, torch.tensor(mean), torch.tensor(math.log(variance)))
        assert logs.exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_fixed_variance_has_no_bound_to_train():
    x, t = torch.zeros(1, 1, 1), torch.ones(1, 1).long()
    with pytest.raises(ValueError, match="fixed"):
        bound_term(GaussianDiffusion(), x, x, x, t)
    with pytest.raises(UserError, match="at least 2"):
        GaussianDiffusion(steps=1, variance="learned")


# Data N(0, d^2): all distributions are Gaussian and known.


def toy(deviation=0.5, n=20_000, steps=10):
    process = GaussianDiffusion("cosine", 1000, variance="learned")
    levels = ddim.grid(process, SamplerConfig(steps=steps))
    return process, deviation, levels, (1, 1, 1, n, 1)


def best_guess(process, noisy, t, deviation):
    """E[noise | x_t] for data N(0, d^2)."""
    abar = process.alpha_bar[t].item()
    return noisy * (1 - abar) ** 0.5 / (abar * deviation**2 + 1 - abar)


def true_variance(process, deviation, t, s):
    """Of x_s given x_t: the joint of both is Gaussian."""
    abar_t, abar_s = (process.alpha_bar[k].item() for k in (t, s))
    var_t, var_s = (a * deviation**2 + 1 - a for a in (abar_t, abar_s))
    covariance = (abar_t / abar_s) ** 0.5 * var_s
    return var_s - covariance**2 / var_t


def test_the_bound_is_least_at_the_true_variance():
    process, deviation, _, shape = toy()
    t = torch.tensor([[600]])
    clean = deviation * latents(*shape)
    noisy = process.add_noise(clean, latents(*shape, seed=1), t)
    eps = best_guess(process, noisy, 600, deviation)
    v = torch.zeros(1, 1, 1, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([v], 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        bound_term(process, torch.cat([eps, v.expand_as(eps)], 1), clean, noisy, t).sum().backward()
        optimizer.step()
    learned = process.log_variance(v.detach(), t, t - 1).exp().item()
    assert -1 < v.item() < 1
    assert learned == pytest.approx(true_variance(process, deviation, 600, 599), rel=1e-4)


def run_toy(process, deviation, levels, shape, share_of):
    noisy = latents(*shape)
    for k, (a, b) in enumerate(zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True)):
        t, s = torch.tensor([[a]]), torch.tensor([[b]])
        eps = best_guess(process, noisy, a, deviation)
        v = torch.full_like(eps, share_of(a, b))
        output = torch.cat([eps, v], dim=1)
        noise = latents(*shape, seed=k + 1)
        noisy = ddim.step(process, noisy, output, t, s, noise, SamplerConfig())
    return noisy


def test_with_the_true_variance_few_steps_sample_the_data_s():
    """With the right variance even 10 respaced steps reach the data's spread; a bound does not."""
    process, deviation, levels, shape = toy()

    def exact(t, s):
        if s == 0:
            return 0.0
        like = torch.zeros(1, 1, 1)
        bounds = process.transition(torch.tensor([[t]]), torch.tensor([[s]]), like)
        high, low = (math.log(b.item()) for b in bounds)
        wanted = math.log(true_variance(process, deviation, t, s))
        return 2 * (wanted - low) / (high - low) - 1

    # The last step takes the mean: what is left of x_1 is a part in ten thousand.
    assert run_toy(process, deviation, levels, shape, exact).std().item() == pytest.approx(
        deviation, rel=0.02
    )
    low = run_toy(process, deviation, levels, shape, lambda t, s: -1.0).std().item()
    high = run_toy(process, deviation, levels, shape, lambda t, s: 1.0).std().item()
    assert low < 0.95 * deviation
    assert high > 1.05 * deviation


def test_the_lower_bound_of_the_variance_is_the_ancestral_step():
    fixed = GaussianDiffusion("cosine", 1000)
    noisy, eps, noise = latents(2, 3, 4), latents(2, 3, 4, seed=1), latents(2, 3, 4, seed=2)
    t, s = torch.tensor([[900, 500, 7, 0]] * 2), torch.tensor([[450, 500, 0, 0]] * 2)
    config = SamplerConfig(eta=1.0, threshold=0)
    output = torch.cat([eps, -torch.ones_like(eps)], dim=1)
    made = ddim.step(LEARNED, noisy, output, t, s, noise, config)
    expected = ddim.step(fixed, noisy, eps, t, s, noise, config)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(made[:, :, [1, 3]], noisy[:, :, [1, 3]])


def test_below_eta_1_the_learned_variance_is_not_used():
    noisy, noise = latents(1, 2, 3), latents(1, 2, 3, seed=1)
    t, s = torch.full((1, 3), 800), torch.full((1, 3), 300)
    outputs = [torch.cat([noisy, torch.full_like(noisy, v)], dim=1) for v in (-1.0, 1.0)]
    for eta in (0.0, 0.5, 1.0):
        one, other = (
            ddim.step(LEARNED, noisy, out, t, s, noise, SamplerConfig(eta=eta)) for out in outputs
        )
        assert torch.equal(one, other) == (eta < 1)
