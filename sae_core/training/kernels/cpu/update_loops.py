"""Loops that reconstruct, and that turn a code into gradients and these into new weights.

What they mean in PyTorch is `gradients.compute` and `torch.optim.Adam`. Each that takes the number of a part writes
only what belongs to it, so a result depends neither on the number of threads nor on their order.
"""

from __future__ import annotations

import numpy as np

from sae_core.training.kernels.cpu.compiled import inlined, loop


@inlined
def _dot(left_RD, row, right_RD, other):
    total = np.float32(0)
    for column in range(left_RD.shape[1]):
        total += left_RD[row, column] * right_RD[other, column]
    return total


@inlined
def _add_rows(sum_D, table_RD, picks_E, weights_E, start, stop):
    """Add weight·table[pick] to a sum [D] for the entries start … stop, four at a time, as that spares reads of it."""
    columns = table_RD.shape[1]
    fours = start + (stop - start) // 4 * 4
    for entry in range(start, fours, 4):
        row_0, row_1, row_2, row_3 = picks_E[entry], picks_E[entry + 1], picks_E[entry + 2], picks_E[entry + 3]
        by_0, by_1, by_2, by_3 = weights_E[entry], weights_E[entry + 1], weights_E[entry + 2], weights_E[entry + 3]
        for column in range(columns):
            sum_D[column] += (by_0 * table_RD[row_0, column] + by_1 * table_RD[row_1, column]) + (
                by_2 * table_RD[row_2, column] + by_3 * table_RD[row_3, column]
            )
    for entry in range(fours, stop):
        row_0, by_0 = picks_E[entry], weights_E[entry]
        for column in range(columns):
            sum_D[column] += by_0 * table_RD[row_0, column]


@loop(
    "void(int64, int64, int64[::1], int64[::1], int32[::1], float32[::1], float32[:, ::1], float32[::1],"
    " float32[:, ::1], float32, float32[:, ::1], float32[:, ::1], float32[::1], float64[::1])"
)
def decode(
    part,
    parts,
    starts_B,
    stops_B,
    features_E,
    values_E,
    W_dec_ND,
    b_dec_D,
    x_BD,
    scale,
    recon_BD,
    grad_BD,
    slopes_E,
    errors_B,
):
    """Reconstruct; scale·error is the gradient of the reconstruction, and its product with an atom an entry's slope."""
    rows, columns = x_BD.shape
    sum_D = np.empty(columns, np.float32)
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        for column in range(columns):
            sum_D[column] = b_dec_D[column]
        _add_rows(sum_D, W_dec_ND, features_E, values_E, starts_B[row], stops_B[row])
        squares = np.float32(0)
        for column in range(columns):
            error = sum_D[column] - x_BD[row, column]
            recon_BD[row, column] = sum_D[column]
            grad_BD[row, column] = scale * error
            squares += error * error
        errors_B[row] = squares
        for entry in range(starts_B[row], stops_B[row]):
            slopes_E[entry] = _dot(grad_BD, row, W_dec_ND, features_E[entry])


@loop(
    "void(int64[::1], int64[::1], int32[::1], float32[::1], float32[::1], int64[::1], int32[::1], float32[::1],"
    " float32[::1], float32[::1])"
)
def sort_by_feature(
    starts_B, stops_B, features_E, values_E, slopes_E, pointers_P, tokens_E, by_value_E, by_slope_E, grad_b_enc_N
):
    """Active entries sorted by feature, then by activation: those of feature i lie at pointers[i] … pointers[i + 1]."""
    width = len(grad_b_enc_N)
    for feature in range(width):
        pointers_P[feature], grad_b_enc_N[feature] = 0, 0
    pointers_P[width] = pointers_P[width + 1] = 0
    for row in range(len(starts_B)):
        for entry in range(starts_B[row], stops_B[row]):
            if values_E[entry] > 0:
                pointers_P[features_E[entry] + 2] += 1
                grad_b_enc_N[features_E[entry]] += slopes_E[entry]
    for feature in range(width):
        pointers_P[feature + 2] += pointers_P[feature + 1]
    # pointers[i + 1] is where the next entry of feature i goes, and at the end where those of i + 1 start.
    for row in range(len(starts_B)):
        for entry in range(starts_B[row], stops_B[row]):
            if values_E[entry] > 0:
                place = pointers_P[features_E[entry] + 1]
                pointers_P[features_E[entry] + 1] += 1
                tokens_E[place] = row
                by_value_E[place], by_slope_E[place] = values_E[entry], slopes_E[entry]


@loop(
    "void(int64[::1], int64[::1], int32[::1], boolean[::1], float32[::1], float32[::1], float32, float32, float32[::1])"
)
def threshold_gradient(
    starts_B, stops_B, features_E, near_E, slopes_E, thresholds_N, bandwidth, per_feature, grad_threshold_N
):
    """Straight-through gradient of JumpReLU's thresholds; per_feature is what an active feature costs."""
    for feature in range(len(grad_threshold_N)):
        grad_threshold_N[feature] = 0
    for row in range(len(starts_B)):
        for entry in range(starts_B[row], stops_B[row]):
            if near_E[entry]:
                feature = features_E[entry]
                grad_threshold_N[feature] -= (thresholds_N[feature] * slopes_E[entry] + per_feature) / bandwidth


@inlined
def _share(part, parts, pointers_P, width):
    """The first feature of a part, such that parts have about as much work: a row costs as much as some entries."""
    row_cost = 6
    target = part * (pointers_P[width] + row_cost * width) // parts
    low, high = 0, width
    while low < high:
        middle = (low + high) // 2
        if pointers_P[middle] + row_cost * middle < target:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def _row_gradients(
    feature,
    pointers_P,
    tokens_E,
    values_E,
    slopes_E,
    centred_BD,
    grad_BD,
    ranks_N,
    aux_enc_MD,
    aux_dec_MD,
    W_dec_ND,
    enc_D,
    dec_D,
):
    """Gradient of a feature's encoder and decoder row, the latter without the part that is parallel to the atom."""
    start, stop, rank = pointers_P[feature], pointers_P[feature + 1], ranks_N[feature]
    for column in range(len(enc_D)):
        enc_D[column] = aux_enc_MD[rank, column] if rank >= 0 else np.float32(0)
        dec_D[column] = aux_dec_MD[rank, column] if rank >= 0 else np.float32(0)
    _add_rows(enc_D, centred_BD, tokens_E, slopes_E, start, stop)
    _add_rows(dec_D, grad_BD, tokens_E, values_E, start, stop)
    along = np.float32(0)
    for column in range(len(dec_D)):
        along += dec_D[column] * W_dec_ND[feature, column]
    for column in range(len(dec_D)):
        dec_D[column] -= along * W_dec_ND[feature, column]


_GRADIENTS = (
    "int64[::1], int32[::1], float32[::1], float32[::1], float32[:, ::1], float32[:, ::1], int32[::1],"
    " float32[:, ::1], float32[:, ::1], float32[:, ::1]"
)
"""Types of what `_row_gradients` reads."""


@loop(f"void(int64, int64, {_GRADIENTS}, float64[::1])")
def square_gradients(
    part,
    parts,
    pointers_P,
    tokens_E,
    values_E,
    slopes_E,
    centred_BD,
    grad_BD,
    ranks_N,
    aux_enc_MD,
    aux_dec_MD,
    W_dec_ND,
    squares_N,
):
    """‖gradient‖² of every feature's two rows."""
    width, columns = W_dec_ND.shape
    enc_D, dec_D = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for feature in range(_share(part, parts, pointers_P, width), _share(part + 1, parts, pointers_P, width)):
        _row_gradients(
            feature, pointers_P, tokens_E, values_E, slopes_E, centred_BD, grad_BD, ranks_N, aux_enc_MD, aux_dec_MD,
            W_dec_ND, enc_D, dec_D,
        )  # fmt: skip
        total = np.float32(0)
        for column in range(columns):
            total += enc_D[column] * enc_D[column] + dec_D[column] * dec_D[column]
        squares_N[feature] = total


@loop(
    "float64(int64[::1], int32[::1], float32[::1], float32[::1], float32[::1], float32[::1], int32[::1], float32[::1],"
    " float32[::1])"
)
def bound_square(
    pointers_P, tokens_E, values_E, slopes_E, x_norms_B, grad_norms_B, ranks_N, aux_enc_norms_M, aux_dec_norms_M
):
    """No less than Σ of what `square_gradients` gives: a sum of rows is at most as long as they are together."""
    total = np.float64(0)
    for feature in range(len(ranks_N)):
        rank = ranks_N[feature]
        enc = aux_enc_norms_M[rank] if rank >= 0 else np.float32(0)
        dec = aux_dec_norms_M[rank] if rank >= 0 else np.float32(0)
        for entry in range(pointers_P[feature], pointers_P[feature + 1]):
            enc += abs(slopes_E[entry]) * x_norms_B[tokens_E[entry]]
            dec += values_E[entry] * grad_norms_B[tokens_E[entry]]
        total += enc * enc + dec * dec
    return total * 1.001  # room for the rounding of all these sums


@inlined
def _adam_row(grad_D, factor, adam_7, weights_RD, means_RD, squares_RD, row):
    """Adam on one row, as torch's: a mean and a mean square of the gradient, both corrected for their start at 0."""
    rate, keep_1, new_1, keep_2, new_2, correction, epsilon = adam_7
    for column in range(len(grad_D)):
        grad = grad_D[column] * factor
        mean = keep_1 * means_RD[row, column] + new_1 * grad
        square = keep_2 * squares_RD[row, column] + new_2 * grad * grad
        means_RD[row, column], squares_RD[row, column] = mean, square
        weights_RD[row, column] -= rate * mean / (np.sqrt(square) / correction + epsilon)


@loop(
    f"void(int64, int64, {_GRADIENTS}, float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[:, ::1],"
    " float32[:, ::1], float32, UniTuple(float32, 7))"
)
def update(
    part,
    parts,
    pointers_P,
    tokens_E,
    values_E,
    slopes_E,
    centred_BD,
    grad_BD,
    ranks_N,
    aux_enc_MD,
    aux_dec_MD,
    W_dec_ND,
    dec_means_ND,
    dec_squares_ND,
    W_enc_ND,
    enc_means_ND,
    enc_squares_ND,
    factor,
    adam_7,
):
    """Gradient, Adam and unit norm of every feature, while its rows are in the cache."""
    width, columns = W_dec_ND.shape
    enc_D, dec_D = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for feature in range(_share(part, parts, pointers_P, width), _share(part + 1, parts, pointers_P, width)):
        _row_gradients(
            feature, pointers_P, tokens_E, values_E, slopes_E, centred_BD, grad_BD, ranks_N, aux_enc_MD, aux_dec_MD,
            W_dec_ND, enc_D, dec_D,
        )  # fmt: skip
        _adam_row(enc_D, factor, adam_7, W_enc_ND, enc_means_ND, enc_squares_ND, feature)
        _adam_row(dec_D, factor, adam_7, W_dec_ND, dec_means_ND, dec_squares_ND, feature)
        norm = np.float32(0)
        for column in range(columns):
            norm += W_dec_ND[feature, column] * W_dec_ND[feature, column]
        norm = max(np.sqrt(norm), np.float32(1e-12))
        for column in range(columns):
            W_dec_ND[feature, column] /= norm


@loop("void(float32[::1], float32[::1], float32[::1], float32[::1], float32, UniTuple(float32, 7))")
def update_vector(grad_N, weights_N, means_N, squares_N, factor, adam_7):
    """Adam on a vector."""
    _adam_row(grad_N, factor, adam_7, weights_N.reshape(1, -1), means_N.reshape(1, -1), squares_N.reshape(1, -1), 0)


@loop("float64(int64[::1], int64[::1], float32[::1])")
def total(starts_B, stops_B, values_E):
    """Sum over the entries of a code."""
    result = np.float64(0)
    for row in range(len(starts_B)):
        for entry in range(starts_B[row], stops_B[row]):
            result += values_E[entry]
    return result
