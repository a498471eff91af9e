"""The architectures: hand-made codes, straight-through gradients, sparse codes, scaling and seeds."""

from __future__ import annotations

import pytest
import torch
from random_saes import ALL, random_sae

from sae_core.foundation.settings.run_settings import Architecture, SAESettings
from sae_core.sae import BatchTopKSAE, JumpReLUSAE, ReLUSAE, TopKSAE, make_sae
from sae_core.sae.sparse_code import SparseCode, entry_products, largest, weighted_sum


def test_topk_keeps_the_k_largest_if_they_are_positive() -> None:
    sae = TopKSAE(2, 4, k=2)
    pre = torch.tensor([[0.1, 3.0, -1.0, 2.0], [-4.0, -3.0, 1.0, -2.0], [-1.0, -2.0, -3.0, -4.0]])
    expected = torch.tensor([[0.0, 3.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert torch.equal(sae.activate(pre), expected)


def test_topk_with_k_beyond_the_width_is_relu() -> None:
    pre = torch.tensor([[1.0, -1.0, 2.0]])
    assert torch.equal(TopKSAE(2, 3, k=9).activate(pre), pre.relu())


def test_relu_code_and_penalty() -> None:
    sae = ReLUSAE(2, 3)
    pre = torch.tensor([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]])
    coefs = sae.activate(pre)
    assert torch.equal(coefs, torch.tensor([[1.0, 0.0, 3.0], [0.0, 4.0, 0.0]]))
    assert sae.penalty(pre, coefs).item() == pytest.approx(4.0)
    with torch.no_grad():
        sae.W_dec *= 2  # longer atoms must not make the penalty cheaper
    assert sae.penalty(pre, coefs).item() == pytest.approx(8.0)


def test_batchtopk_shares_the_budget_within_a_training_batch() -> None:
    sae = BatchTopKSAE(2, 3, k=1).train()
    pre = torch.tensor([[5.0, 4.0, 1.0], [2.0, -1.0, 0.5]])
    assert torch.equal(sae.activate(pre), torch.tensor([[5.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    assert sae.threshold.item() == 4.0
    sae.activate(torch.tensor([[3.0, 0.0, 0.0], [2.0, 0.0, 0.0]]))
    assert sae.threshold.item() == pytest.approx(0.99 * 4.0 + 0.01 * 2.0)
    for steps, momentum in ((10, 0.0), (200, 0.9), (2000, 0.99), (10**6, 0.99)):
        sae.train_for(steps)
        assert sae.momentum == pytest.approx(momentum)


def test_batchtopk_threshold_ignores_entries_that_are_not_positive() -> None:
    sae = BatchTopKSAE(2, 3, k=3).train()
    sae.activate(torch.tensor([[2.0, -1.0, -1.0]]))
    assert sae.threshold.item() == 2.0
    sae.activate(torch.full((1, 3), -1.0))
    assert sae.threshold.item() == pytest.approx(2.0)


def test_batchtopk_at_inference_does_not_depend_on_neighbours() -> None:
    sae = random_sae("batchtopk")
    acts = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([sae.encode(row[None]) for row in acts])
    torch.testing.assert_close(sae.encode(acts), alone)
    assert (alone[alone > 0] > 0.6).all()


def test_jumprelu_is_open_above_the_threshold_and_never_negative() -> None:
    sae = JumpReLUSAE(2, 3)
    with torch.no_grad():
        sae.threshold.copy_(torch.tensor([1.0, 0.5, -1.0]))
    pre = torch.tensor([[0.9, 0.9, -0.5], [1.1, 0.4, 0.2]])
    assert torch.equal(sae.activate(pre).detach(), torch.tensor([[0.0, 0.9, 0.0], [1.1, 0.0, 0.2]]))


def test_jumprelu_straight_through_gradients() -> None:
    """Equations 11 and 12 of Rajamanoharan et al. 2024, entry by entry."""
    epsilon, threshold = 0.4, 1.0
    sae = JumpReLUSAE(2, 4, threshold=threshold, bandwidth=epsilon)
    pre = torch.tensor([[0.5, 0.9, 1.1, 1.5]], requires_grad=True)
    upstream = torch.tensor([[2.0, 3.0, 5.0, 7.0]])
    coefs = sae.activate(pre)
    grad_pre, grad_threshold = torch.autograd.grad(coefs, (pre, sae.threshold), upstream)
    assert torch.equal(grad_pre, torch.tensor([[0.0, 0.0, 5.0, 7.0]]))
    torch.testing.assert_close(grad_threshold, torch.tensor([0.0, -2.5 * 3.0, -2.5 * 5.0, 0.0]))
    penalty = sae.penalty(pre, coefs)
    assert penalty.item() == 2.0
    (grad_threshold,) = torch.autograd.grad(penalty, sae.threshold)
    torch.testing.assert_close(grad_threshold, torch.tensor([0.0, -2.5, -2.5, 0.0]))


def test_revival_counts_how_far_dead_features_are_below_their_threshold() -> None:
    pre, dead = torch.tensor([[0.5, -1.0, 3.0], [0.25, -3.0, 3.0]]), torch.tensor([0, 1])
    left = torch.zeros(2, 2)
    assert ReLUSAE(2, 3).revival(pre, dead, left).item() == pytest.approx(2.0)
    assert JumpReLUSAE(2, 3, threshold=1.0).revival(pre, dead, left).item() == pytest.approx(0.625 + 3.0)


@pytest.mark.parametrize("architecture", ALL)
def test_forward_and_sparse_codes_agree_with_dense_ones(architecture: Architecture) -> None:
    sae = random_sae(architecture)
    acts = torch.randn(30, 12, generator=torch.Generator().manual_seed(2))
    coefs = sae.encode(acts)
    code = sae.encode_sparse(acts)
    assert (coefs > 0).any()
    assert torch.equal(code.dense(), coefs)
    torch.testing.assert_close(sae.decode_sparse(code), coefs @ sae.W_dec + sae.b_dec)
    torch.testing.assert_close(sae(acts), coefs @ sae.W_dec + sae.b_dec)
    expected_pre = (acts - sae.b_dec) @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(sae.pre_activations(acts), expected_pre)


@pytest.mark.parametrize("architecture", ALL)
def test_folding_the_input_scale_keeps_atoms_and_function(architecture: Architecture) -> None:
    scale = 0.037
    trained, folded = random_sae(architecture), random_sae(architecture)
    trained.normalize_atoms()
    folded.normalize_atoms()
    folded.fold_input_scale(scale)
    acts = torch.randn(40, 12, generator=torch.Generator().manual_seed(3)) / scale
    torch.testing.assert_close(folded(acts), trained(scale * acts) / scale, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.encode(acts), trained.encode(scale * acts) / scale, rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.W_dec, trained.W_dec)


@pytest.mark.parametrize("architecture", ALL)
def test_seeds_decide_the_initial_weights(architecture: Architecture) -> None:
    settings = SAESettings(architecture=architecture, width=20, k=3)
    torch.manual_seed(7)
    first = make_sae(settings, 6, seed=5)
    torch.manual_seed(8)
    same, other = make_sae(settings, 6, seed=5), make_sae(settings, 6, seed=6)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in first.state_dict().items())
    assert not torch.isclose(first.W_dec, other.W_dec).any()
    assert torch.equal(first.W_enc, first.W_dec.T)
    torch.testing.assert_close(first.W_dec.norm(dim=1), torch.ones(20))


@pytest.mark.parametrize(("rows", "columns", "k"), [(7, 64, 3), (1, 4096, 100), (5, 61, 4), (3, 64, 60), (4, 8, 20)])
def test_largest_is_topk(rows: int, columns: int, k: int) -> None:
    scores = torch.randn(rows, columns, generator=torch.Generator().manual_seed(4))
    values, places = largest(scores, k)
    expected = scores.topk(min(k, columns), dim=1)
    assert torch.equal(values.sort(dim=1, descending=True).values, expected.values)
    assert torch.equal(scores.gather(1, places), values)
    assert torch.equal(places.sort(dim=1).values, expected.indices.sort(dim=1).values)


def test_largest_passes_gradients_to_what_it_chose() -> None:
    scores = torch.randn(4, 64, generator=torch.Generator().manual_seed(5), requires_grad=True)
    values, places = largest(scores, 2)
    values.sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(4, 64).scatter(1, places, 1.0))


def test_sparse_codes_with_empty_rows_and_without_entries() -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    table = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    code = SparseCode.from_dense(dense)
    assert torch.equal(code.dense(), dense)
    assert torch.equal(code.weighted_sum(table), dense @ table)
    left = torch.randn(4, 2, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(entry_products(left, table, code), (left @ table.T)[dense != 0])
    empty = SparseCode.from_dense(torch.zeros(4, 3))
    assert torch.equal(empty.dense(), torch.zeros(4, 3))
    assert torch.equal(empty.weighted_sum(table), torch.zeros(4, 2))
    assert entry_products(left, table, empty).shape == (0,)


def test_weighted_sum_is_differentiable_on_both_sides() -> None:
    generator = torch.Generator().manual_seed(7)
    table = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, generator=generator, dtype=torch.float64, requires_grad=True)
    picks, bags = torch.tensor([0, 3, 3, 1]), torch.tensor([0, 0, 2, 2])
    assert torch.autograd.gradcheck(lambda t, w: weighted_sum(t, picks, bags, w, 4), (table, weights))
