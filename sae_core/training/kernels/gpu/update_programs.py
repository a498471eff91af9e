"""Triton programs that reconstruct on a GPU, and that turn a code into gradients and these into new weights.

What they mean in PyTorch is `gradients.compute` and `torch.optim.Adam`. Tables are float32 or bfloat16; every sum runs
in float32 and in a fixed order. A program reads some rows of a table at a time, all columns of them, and adds them up
in its registers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(table_RD, pick_T, columns, there_T, column_D):
    """Rows of a table in float32, 0 where there is none."""
    place_TD = pick_T.to(tl.int64)[:, None] * columns + column_D[None, :]
    return tl.load(table_RD + place_TD, mask=there_T[:, None] & (column_D < columns)[None, :], other=0.0).to(tl.float32)


@triton.jit
def reconstruct(
    starts_B, counts_B, features_E, values_E, W_dec_ND, b_dec_D, x_BD, recon_BD, grad_BD, slopes_E, errors_B,
    columns, scale, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Reconstruct an activation, one program each.

    scale·error is the gradient of the reconstruction, and its product with an atom the slope of that atom's entry.
    """
    row = tl.program_id(0)
    column_D = tl.arange(0, COLUMNS)
    inside_D = column_D < columns
    start = tl.load(starts_B + row)
    stop = start + tl.load(counts_B + row)
    sum_TD = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(start, stop, ROWS):
        entry_T = first + tl.arange(0, ROWS)
        there_T = entry_T < stop
        feature_T = tl.load(features_E + entry_T, mask=there_T, other=0)
        value_T = tl.load(values_E + entry_T, mask=there_T, other=0.0)
        sum_TD += value_T[:, None] * _rows(W_dec_ND, feature_T, columns, there_T, column_D)
    place_D = row.to(tl.int64) * columns + column_D
    recon_D = tl.sum(sum_TD, axis=0) + tl.load(b_dec_D + column_D, mask=inside_D, other=0.0)
    error_D = recon_D - tl.load(x_BD + place_D, mask=inside_D, other=0.0)
    grad_D = error_D * scale
    tl.store(recon_BD + place_D, recon_D, mask=inside_D)
    tl.store(grad_BD + place_D, grad_D.to(grad_BD.dtype.element_ty), mask=inside_D)
    tl.store(errors_B + row, tl.sum(error_D * error_D, axis=0))
    for first in range(start, stop, ROWS):  # the same rows, now often in the cache
        entry_T = first + tl.arange(0, ROWS)
        there_T = entry_T < stop
        feature_T = tl.load(features_E + entry_T, mask=there_T, other=0)
        slope_T = tl.sum(grad_D[None, :] * _rows(W_dec_ND, feature_T, columns, there_T, column_D), axis=1)
        tl.store(slopes_E + entry_T, slope_T, mask=there_T)


@triton.jit
def _finish(
    feature, enc_D, dec_D, grad_enc_ND, grad_dec_ND, W_dec_ND, ranks_N, aux_enc_MD, aux_dec_MD, squares_N,
    columns, column_D,
):  # fmt: skip
    """Add what a dead feature gets, take out what is parallel to the atom, write both rows and ‖both‖²."""
    inside_D = column_D < columns
    place_D = feature.to(tl.int64) * columns + column_D
    rank = tl.load(ranks_N + feature)
    helped_D = inside_D & (rank >= 0)
    aux_D = rank.to(tl.int64) * columns + column_D
    enc_D += tl.load(aux_enc_MD + aux_D, mask=helped_D, other=0.0)
    dec_D += tl.load(aux_dec_MD + aux_D, mask=helped_D, other=0.0)
    atom_D = tl.load(W_dec_ND + place_D, mask=inside_D, other=0.0)
    dec_D -= tl.sum(dec_D * atom_D, axis=0) * atom_D
    tl.store(grad_enc_ND + place_D, enc_D, mask=inside_D)
    tl.store(grad_dec_ND + place_D, dec_D, mask=inside_D)
    tl.store(squares_N + feature, tl.sum(enc_D * enc_D + dec_D * dec_D, axis=0))


@triton.jit
def sum_gradients(
    pointers_P, tokens_E, values_E, slopes_E, x_BD, grad_BD, grad_b_enc_N, grad_enc_ND, grad_dec_ND,
    W_dec_ND, ranks_N, aux_enc_MD, aux_dec_MD, squares_N, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Gradients of a feature's encoder row, atom and bias from its entries, which are sorted; one program a feature."""
    feature = tl.program_id(0)
    column_D = tl.arange(0, COLUMNS)
    start, stop = tl.load(pointers_P + feature), tl.load(pointers_P + feature + 1)
    enc_TD, dec_TD = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    slope_sum_T = tl.zeros([ROWS], tl.float32)
    for first in range(start, stop, ROWS):
        entry_T = first + tl.arange(0, ROWS)
        there_T = entry_T < stop
        token_T = tl.load(tokens_E + entry_T, mask=there_T, other=0)
        value_T = tl.load(values_E + entry_T, mask=there_T, other=0.0)
        slope_T = tl.load(slopes_E + entry_T, mask=there_T, other=0.0)
        enc_TD += slope_T[:, None] * _rows(x_BD, token_T, columns, there_T, column_D)
        dec_TD += value_T[:, None] * _rows(grad_BD, token_T, columns, there_T, column_D)
        slope_sum_T += slope_T
    tl.store(grad_b_enc_N + feature, tl.sum(slope_sum_T, axis=0))
    _finish(
        feature, tl.sum(enc_TD, axis=0), tl.sum(dec_TD, axis=0), grad_enc_ND, grad_dec_ND,
        W_dec_ND, ranks_N, aux_enc_MD, aux_dec_MD, squares_N, columns, column_D,
    )  # fmt: skip


@triton.jit
def finish_gradients(
    grad_enc_ND, grad_dec_ND, W_dec_ND, ranks_N, aux_enc_MD, aux_dec_MD, squares_N, columns, COLUMNS: tl.constexpr
):
    """As the end of `sum_gradients`, for gradients that products have written; one program a feature."""
    feature = tl.program_id(0)
    column_D = tl.arange(0, COLUMNS)
    place_D = feature.to(tl.int64) * columns + column_D
    enc_D = tl.load(grad_enc_ND + place_D, mask=column_D < columns, other=0.0)
    dec_D = tl.load(grad_dec_ND + place_D, mask=column_D < columns, other=0.0)
    _finish(
        feature, enc_D, dec_D, grad_enc_ND, grad_dec_ND,
        W_dec_ND, ranks_N, aux_enc_MD, aux_dec_MD, squares_N, columns, column_D,
    )  # fmt: skip


@triton.jit
def _adam(
    grad_D, weights_D, means_D, squares_D, place_D, inside_D, rate, keep_1, new_1, keep_2, new_2, correction, epsilon
):
    """New weights; the mean and mean square of their gradient are renewed in place."""
    mean_D = keep_1 * tl.load(means_D + place_D, mask=inside_D, other=0.0) + new_1 * grad_D
    square_D = keep_2 * tl.load(squares_D + place_D, mask=inside_D, other=0.0) + new_2 * grad_D * grad_D
    tl.store(means_D + place_D, mean_D, mask=inside_D)
    tl.store(squares_D + place_D, square_D, mask=inside_D)
    weight_D = tl.load(weights_D + place_D, mask=inside_D, other=0.0)
    return weight_D - rate * mean_D / (tl.sqrt(square_D) / correction + epsilon)


@triton.jit
def update_rows(
    grad_ND, weights_ND, means_ND, squares_ND, numbers_3, columns, size, keep_1, new_1, keep_2, new_2, epsilon,
    UNIT: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adam on a row, one program each; UNIT scales it to unit norm then.

    numbers are what clipping leaves of a gradient, the step size, and the correction of the mean square's root. All
    numbers of the table lie before `size`.
    """
    column_D = tl.arange(0, COLUMNS)
    place_D = tl.program_id(0).to(tl.int64) * columns + column_D
    inside_D = (column_D < columns) & (place_D < size)
    factor, rate, correction = tl.load(numbers_3), tl.load(numbers_3 + 1), tl.load(numbers_3 + 2)
    grad_D = tl.load(grad_ND + place_D, mask=inside_D, other=0.0) * factor
    weight_D = _adam(
        grad_D, weights_ND, means_ND, squares_ND, place_D, inside_D,
        rate, keep_1, new_1, keep_2, new_2, correction, epsilon,
    )  # fmt: skip
    if UNIT:
        weight_D /= tl.maximum(tl.sqrt(tl.sum(tl.where(inside_D, weight_D * weight_D, 0.0), axis=0)), 1e-12)
    tl.store(weights_ND + place_D, weight_D, mask=inside_D)
