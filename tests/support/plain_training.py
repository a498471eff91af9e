"""A plain training, the reference for the fast one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_core.foundation.settings.run_settings import SAESettings, TrainingSettings
from sae_core.sae import SAE, BatchTopKSAE, JumpReLUSAE, TopKSAE
from sae_core.sae.groupmax import GroupMaxSAE
from sae_core.training.step import ADAM_EPSILON


class PlainLoss:
    """The loss as its formula reads, on dense codes, to be differentiated by autograd.

    Args:
        sae: The SAE.
        x_BD: What it has to reconstruct.
        dead_M: Numbers of the features that count as dead.
        sparsity: Weight of the penalty.
        aux_coefficient: Weight of the help for dead features.
        screen_BN: Preactivations that decide which features are kept, if not the exact ones.
    """

    def __init__(
        self,
        sae: SAE,
        x_BD: Tensor,
        dead_M: Tensor,
        *,
        sparsity: float,
        aux_coefficient: float,
        screen_BN: Tensor | None = None,
    ) -> None:
        self.sae, self.x_BD, self.dead_M = sae, x_BD, dead_M
        rows = len(x_BD)
        pre_BN = (x_BD - sae.b_dec) @ sae.W_enc + sae.b_enc
        screen_BN = pre_BN.detach() if screen_BN is None else screen_BN.detach()
        penalty = torch.zeros(())
        if isinstance(sae, GroupMaxSAE):
            size = math.ceil(sae.width / sae.k)
            groups = [range(start, min(start + size, sae.width)) for start in range(0, sae.width, size)]
            kept_BN = torch.zeros_like(screen_BN)
            for row, each in enumerate(screen_BN.tolist()):
                kept_BN[row, [max(group, key=each.__getitem__) for group in groups]] = 1.0
            self.coefs_BN = (pre_BN * kept_BN).relu()
        elif isinstance(sae, TopKSAE):
            kept_BN = torch.zeros_like(screen_BN).scatter_(1, screen_BN.topk(sae.k, dim=1).indices, 1.0)
            self.coefs_BN = (pre_BN * kept_BN).relu()
        elif isinstance(sae, BatchTopKSAE):
            kept = torch.zeros(screen_BN.numel(), dtype=screen_BN.dtype)
            kept[screen_BN.flatten().topk(sae.k * rows).indices] = 1.0
            self.coefs_BN = (pre_BN * kept.view_as(screen_BN)).relu()
        elif isinstance(sae, JumpReLUSAE):
            # Value as it is, gradient for the threshold by the rectangular kernel (equations 11 and 12).
            open_BN = ((pre_BN > sae.threshold) & (pre_BN > 0)).to(pre_BN.dtype)
            near_BN = ((pre_BN - sae.threshold).abs() < sae.bandwidth / 2).to(pre_BN.dtype)
            moved_BN = near_BN / sae.bandwidth * (sae.threshold - sae.threshold.detach())
            self.coefs_BN = pre_BN * open_BN - sae.threshold.detach() * moved_BN
            penalty = (open_BN - moved_BN).sum(dim=1).mean()
        else:
            self.coefs_BN = pre_BN.relu()
            penalty = (self.coefs_BN * sae.W_dec.norm(dim=1)).sum(dim=1).mean()
        self.recon_BD = self.coefs_BN @ sae.W_dec + sae.b_dec
        self.squared_error = (self.recon_BD - x_BD).square().sum()
        lowered = sae.loss(x_BD, self.coefs_BN, self.squared_error)
        self.loss = lowered / x_BD.shape[1] + sparsity * penalty / x_BD.shape[1]
        if len(dead_M):
            help_for_dead = self._auxk(screen_BN) if "k" in sae.settings else self._revival(pre_BN)
            self.loss = self.loss + aux_coefficient * help_for_dead

    def _auxk(self, screen_BN: Tensor) -> Tensor:
        """Dead features explain x − g(x), a constant here; b_dec is in g already."""
        left_BD = (self.x_BD - self.recon_BD).detach()
        b_dec = self.sae.b_dec.detach() if self.sae.selects else self.sae.b_dec  # by hand, centring is constant
        exact_BM = (self.x_BD - b_dec) @ self.sae.W_enc[:, self.dead_M] + self.sae.b_enc[self.dead_M]
        pre_BM = screen_BN[:, self.dead_M] + exact_BM - exact_BM.detach()
        lowest = pre_BM.topk(min(self.sae.d_in // 2, len(self.dead_M)), dim=1).values[:, -1:].detach()
        coefs_BM = (pre_BM * (pre_BM >= lowest)).relu()
        return (coefs_BM @ self.sae.W_dec[self.dead_M] - left_BD).square().mean()

    def _revival(self, pre_BN: Tensor) -> Tensor:
        threshold_M = self.sae.threshold[self.dead_M] if isinstance(self.sae, JumpReLUSAE) else 0.0
        return (threshold_M - pre_BN[:, self.dead_M]).relu().sum(dim=1).mean() / self.sae.d_in

    def gradients(self) -> dict[str, Tensor]:
        names, parameters = zip(*self.sae.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(self.loss, parameters), strict=True))


class PlainTrainer:
    """What `Trainer` does, written plainly: dense gradients, projection, clipping, torch's Adam, unit norm."""

    def __init__(self, sae: SAE, settings: SAESettings, training: TrainingSettings, steps: int) -> None:
        self.sae, self.settings, self.training, self.steps = sae, settings, training, steps
        self.adam = torch.optim.Adam(
            sae.parameters(), betas=(training.beta1, training.beta2), eps=ADAM_EPSILON, foreach=False
        )
        self.done, self.idle, self.dead, self.norms = 0, [0] * sae.width, torch.arange(0), list[float]()

    def step(self, x_BD: Tensor) -> float:
        if self.done % 25 == 0:
            late = [
                feature for feature in range(self.sae.width) if self.idle[feature] >= self.settings.dead_after_tokens
            ]
            self.dead = torch.tensor(late, dtype=torch.int64)
        rise = (self.done + 1) / (self.training.warmup * self.steps)
        fall = (self.steps - self.done) / (self.training.decay * self.steps)
        weight = self.settings.sparsity * min(1.0, (self.done + 1) / (self.training.sparsity_warmup * self.steps))
        auxiliary = self.settings.aux_coefficient
        plain = PlainLoss(self.sae, x_BD, self.dead, sparsity=weight, aux_coefficient=auxiliary)
        gradients = plain.gradients()
        with torch.no_grad():
            for feature in range(self.sae.width):
                atom, gradient = self.sae.W_dec[feature], gradients["W_dec"][feature]
                gradients["W_dec"][feature] = gradient - (gradient @ atom) * atom
            norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
            self.norms.append(norm)
            factor = min(1.0, self.training.clip / (norm + 1e-6))
            for name, parameter in self.sae.named_parameters():
                parameter.grad = gradients[name] * factor
            self.adam.param_groups[0]["lr"] = self.training.learning_rate * min(1.0, rise, fall)
            self.adam.step()
            self.sae.W_dec /= self.sae.W_dec.norm(dim=1, keepdim=True)
            if isinstance(self.sae, BatchTopKSAE):
                kept = plain.coefs_BN[plain.coefs_BN > 0].min()
                old = self.sae.threshold
                self.sae.threshold = kept.detach() if self.done == 0 else 0.99 * old + 0.01 * kept.detach()
        fired = (plain.coefs_BN > 0).any(dim=0).tolist()
        self.idle = [0 if fired[feature] else self.idle[feature] + len(x_BD) for feature in range(self.sae.width)]
        self.done += 1
        return plain.loss.item()
