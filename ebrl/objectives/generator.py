"""A learned generator in place of Markov chains."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from ebrl.energies import Energy, first_order, over_event
from ebrl.kernels.draws import normal_like
from ebrl.objectives.protocol import Loss, Objective, SelfTrained, conditioned
from ebrl.objectives.score_matching import gradient_with_graph
from ebrl.ranges import check_at_least, check_positive


class Generated(NamedTuple):
    """Draws of a generator, with the latent that each came from."""

    x: Tensor  # (n, *event)
    latent: Tensor  # (n, latent dimension)


class LearnedGenerator(SelfTrained, Objective):
    """Contrast the data with a generator trained beside the energy (Grathwohl et al. 2021).

    The generator draws `x = network(z) + σ ξ`, z and ξ standard normal, and follows the energy:
    each call first moves it one step of its own Adam down `KL(q || exp(-E))`, then returns the
    energy's loss on new draws.

    The entropy in the divergence enters by its gradient, `-E[∇ log q(x) · dx]`. The score is that
    of the mixture over z, `∇ log q(x) = E[(network(z) - x)/σ² | x]`, estimated from `particles`
    draws `N(z, η²)` around the z that made x, with self-normalised weights `q(z) q(x|z) / N(z; ·,
    η²)`: consistent for many particles, biased towards the score of a single component for few. η
    is learnt by the lower bound of `log q(x)`. Where the generator does not draw, nothing raises
    the energy: the generator must not lose modes.

    Args:
        network: Maps `(n, latent_dimension)` to `(n, *event)`.
        latent_dimension: Size of z.
        learning_rate: Learning rate of the generator's Adam.
        noise: Initial σ, in the units of x.
        entropy: Weight of the entropy; above 1 spreads the generator.
        particles: Draws of z for each score.
        gradient_penalty: Weight of `|∇E(data)|²/2`, which keeps the energy from steepening faster
            than the generator can follow.

    Raises:
        TypeError: For a condition: the generator is not conditional.
    """

    def __init__(
        self,
        network: nn.Module,
        latent_dimension: int,
        *,
        learning_rate: float = 1e-3,
        noise: float = 0.1,
        entropy: float = 1.0,
        particles: int = 20,
        gradient_penalty: float = 0.0,
    ):
        super().__init__()
        check_at_least(0, entropy=entropy, gradient_penalty=gradient_penalty)
        check_positive(noise=noise, particles=particles, latent_dimension=latent_dimension)
        self.network, self.latent_dimension = network, latent_dimension
        self.entropy, self.particles, self.gradient_penalty = entropy, particles, gradient_penalty
        self.log_noise = nn.Parameter(torch.tensor(math.log(noise)))
        self.log_posterior = nn.Parameter(torch.full((latent_dimension,), math.log(noise)))
        self.optimizer = torch.optim.Adam(self.parameters(), learning_rate, betas=(0.0, 0.9))

    def forward(
        self, energy: Energy, x: Tensor, condition: Tensor | None = None, *, generator: Generator
    ) -> Loss:
        if condition is not None:
            raise TypeError("a learned generator is not conditional: expected no condition")
        x, model = x.detach(), conditioned(energy, None)
        metrics = self.follow(model, len(x), generator)
        negatives = self.generate(len(x), generator).x.detach()
        data, drawn = model(x), model(negatives)
        gap = drawn.mean() - data.mean()
        loss = -gap
        if self.gradient_penalty:
            _, slope = gradient_with_graph(model, x)
            loss = loss + self.gradient_penalty * slope.square().flatten(1).sum(1).mean() / 2
        metrics |= {"energy_data": data.mean().detach(), "energy_gap": gap.detach()}
        return Loss(loss, metrics)

    def generate(self, n: int, generator: Generator) -> Generated:
        """Draw `n`, differentiable with respect to the network and the noise."""
        like = self.log_posterior.detach()
        latent = normal_like(like.expand(n, -1), generator)
        centre = self.network(latent)
        return Generated(centre + self.log_noise.exp() * normal_like(centre, generator), latent)

    @torch.enable_grad()
    def follow(self, energy: Energy, n: int, generator: Generator) -> dict[str, Tensor]:
        """Move the generator one step towards the energy on `n` draws; return its metrics."""
        drawn = self.generate(n, generator)
        x = drawn.x.detach()
        score = self.score(x, drawn.latent, generator)
        value = first_order(energy, drawn.x)
        # Its gradient is that of -entropy, because the score is held fixed.
        pressure = (score * drawn.x).flatten(1).sum(-1)
        loss = (value + self.entropy * pressure).mean()
        # The bound trains the posterior's width and not the network.
        (width,) = torch.autograd.grad(self._bound(x, drawn.latent, generator), self.log_posterior)
        self.optimizer.zero_grad()
        loss.backward()
        self.log_posterior.grad = -width
        self.optimizer.step()
        return {
            "generator_energy": value.mean().detach(),
            "generator_noise": self.log_noise.detach().exp(),
        }

    @torch.no_grad()
    def score(self, x: Tensor, latent: Tensor, generator: Generator) -> Tensor:
        """Estimate `∇ log q(x)`, `(n, *event)`, for draws and the latents that they came from."""
        spread = normal_like(latent.expand(self.particles, -1, -1), generator)
        near = latent + self.log_posterior.exp() * spread  # (particles, n, latent)
        residual = self.network(near.flatten(0, 1)).unflatten(0, near.shape[:2]) - x
        variance = (2 * self.log_noise).exp()
        misfit = residual.square().flatten(2).sum(-1) / variance  # (particles, n)
        log_weights = (spread.square().sum(-1) - near.square().sum(-1) - misfit) / 2
        weights = over_event(torch.softmax(log_weights, 0), x.ndim - 1)
        return (weights * residual).sum(0) / variance

    def _bound(self, x: Tensor, latent: Tensor, generator: Generator) -> Tensor:
        """Return the lower bound of `log q(x)` under `N(latent, η²)`, up to a constant."""
        near = latent + self.log_posterior.exp() * normal_like(latent, generator)
        residual = (self.network(near) - x).square().flatten(1).sum(-1)  # (n,)
        variance = (2 * self.log_noise.detach()).exp()
        fit = -(residual / variance + near.square().sum(-1)) / 2
        return fit.mean() + self.log_posterior.sum()
