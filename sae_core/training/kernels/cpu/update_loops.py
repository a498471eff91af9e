"""Loops that reconstruct, turn a code into gradients, and gradients into new weights.

`gradients.compute` and `torch.optim.Adam` do the same in PyTorch. A loop that takes the number of a part writes only
what belongs to the part, so a result depends neither on the number of threads nor on their order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from sae_core.training.kernels.cpu.compiled import inlined, loop
from sae_core.training.kernels.cpu.select_loops import CODE


class Rows(NamedTuple):
    """The sources of the gradients of a feature's encoder row and atom.

    The entries of feature i are pointers[i] … pointers[i + 1].

    Attributes:
        pointers_P: First entry of each feature.
        tokens_E: Activation of each entry.
        values_E: Its coefficient: the weight of the reconstruction's gradient in the gradient of the atom.
        slopes_E: Gradient of its preactivation: the weight of the activation in the gradient of the encoder row.
        centred_BD: Activations, b_dec subtracted.
        grad_BD: Gradient of the reconstruction.
        ranks_N: Number of each feature among the dead; −1 for a feature that is not dead.
        aux_enc_MD: Gradients that only encoder rows of dead features get.
        aux_dec_MD: Gradients that only atoms of dead features get.
        W_dec_ND: The atoms.
    """

    pointers_P: NDArray[np.int64]
    tokens_E: NDArray[np.int32]
    values_E: NDArray[np.float32]
    slopes_E: NDArray[np.float32]
    centred_BD: NDArray[np.float32]
    grad_BD: NDArray[np.float32]
    ranks_N: NDArray[np.int32]
    aux_enc_MD: NDArray[np.float32]
    aux_dec_MD: NDArray[np.float32]
    W_dec_ND: NDArray[np.float32]


_INT, _FLOAT = types.int64, types.float32
_VECTOR, _TABLE, _DOUBLES = types.float32[::1], types.float32[:, ::1], types.float64[::1]
_COUNTS = types.int32[::1]
_ROWS = types.NamedTuple((types.int64[::1], _COUNTS, *[_VECTOR] * 2, *[_TABLE] * 2, _COUNTS, *[_TABLE] * 3), Rows)
_ADAM = types.UniTuple(_FLOAT, 8)


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


@loop((_INT, _INT, CODE, _TABLE, _VECTOR, _TABLE, _FLOAT, _TABLE, _TABLE, _VECTOR, _DOUBLES))
def decode(part, parts, code, W_dec_ND, b_dec_D, x_BD, scale, recon_BD, grad_BD, slopes_E, errors_B):
    """Reconstruct. The gradient of the reconstruction is scale·error; an entry's slope is its product with the atom."""
    rows, columns = x_BD.shape
    sum_D = np.empty(columns, np.float32)
    for row in range(part * rows // parts, (part + 1) * rows // parts):
        for column in range(columns):
            sum_D[column] = b_dec_D[column]
        _add_rows(sum_D, W_dec_ND, code.features_E, code.values_E, code.starts_B[row], code.stops_B[row])
        squares = np.float32(0)
        for column in range(columns):
            error = sum_D[column] - x_BD[row, column]
            recon_BD[row, column] = sum_D[column]
            grad_BD[row, column] = scale * error
            squares += error * error
        errors_B[row] = squares
        for entry in range(code.starts_B[row], code.stops_B[row]):
            slopes_E[entry] = _dot(grad_BD, row, W_dec_ND, code.features_E[entry])


@loop((CODE, _VECTOR, _ROWS, _VECTOR))
def sort_by_feature(code, slopes_E, rows, grad_b_enc_N):
    """Fill in the active entries, sorted by feature and then by activation, and the gradient of b_enc."""
    pointers_P, width = rows.pointers_P, len(grad_b_enc_N)
    for feature in range(width):
        pointers_P[feature], grad_b_enc_N[feature] = 0, 0
    pointers_P[width] = pointers_P[width + 1] = 0
    for row in range(len(code.starts_B)):
        for entry in range(code.starts_B[row], code.stops_B[row]):
            if code.values_E[entry] > 0:
                pointers_P[code.features_E[entry] + 2] += 1
                grad_b_enc_N[code.features_E[entry]] += slopes_E[entry]
    for feature in range(width):
        pointers_P[feature + 2] += pointers_P[feature + 1]
    # pointers[i + 1] is the place of the next entry of feature i, and at the end the first entry of feature i + 1.
    for row in range(len(code.starts_B)):
        for entry in range(code.starts_B[row], code.stops_B[row]):
            if code.values_E[entry] > 0:
                place = pointers_P[code.features_E[entry] + 1]
                pointers_P[code.features_E[entry] + 1] += 1
                rows.tokens_E[place] = row
                rows.values_E[place], rows.slopes_E[place] = code.values_E[entry], slopes_E[entry]


@loop((CODE, _VECTOR, _VECTOR, _FLOAT, _FLOAT, _VECTOR))
def threshold_gradient(code, slopes_E, thresholds_N, bandwidth, per_feature, grad_threshold_N):
    """Straight-through gradient of JumpReLU's thresholds; per_feature is the cost of an active feature."""
    for feature in range(len(grad_threshold_N)):
        grad_threshold_N[feature] = 0
    for row in range(len(code.starts_B)):
        for entry in range(code.starts_B[row], code.stops_B[row]):
            if code.near_E[entry]:
                feature = code.features_E[entry]
                grad_threshold_N[feature] -= (thresholds_N[feature] * slopes_E[entry] + per_feature) / bandwidth


@inlined
def _share(part, parts, pointers_P, width):
    """The first feature of a part. Parts have about equal work; a row costs as much as some entries."""
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
def _row_gradients(feature, rows, enc_D, dec_D):
    """Gradient of a feature's encoder row, and of its atom without the part parallel to the atom."""
    start, stop, rank = rows.pointers_P[feature], rows.pointers_P[feature + 1], rows.ranks_N[feature]
    for column in range(len(enc_D)):
        enc_D[column] = rows.aux_enc_MD[rank, column] if rank >= 0 else np.float32(0)
        dec_D[column] = rows.aux_dec_MD[rank, column] if rank >= 0 else np.float32(0)
    _add_rows(enc_D, rows.centred_BD, rows.tokens_E, rows.slopes_E, start, stop)
    _add_rows(dec_D, rows.grad_BD, rows.tokens_E, rows.values_E, start, stop)
    along = np.float32(0)
    for column in range(len(dec_D)):
        along += dec_D[column] * rows.W_dec_ND[feature, column]
    for column in range(len(dec_D)):
        dec_D[column] -= along * rows.W_dec_ND[feature, column]


@loop((_INT, _INT, _ROWS, _DOUBLES))
def square_gradients(part, parts, rows, squares_N):
    """‖gradient‖² of both rows of every feature."""
    width, columns = rows.W_dec_ND.shape
    enc_D, dec_D = np.empty(columns, np.float32), np.empty(columns, np.float32)
    pointers_P = rows.pointers_P
    for feature in range(_share(part, parts, pointers_P, width), _share(part + 1, parts, pointers_P, width)):
        _row_gradients(feature, rows, enc_D, dec_D)
        total = np.float32(0)
        for column in range(columns):
            total += enc_D[column] * enc_D[column] + dec_D[column] * dec_D[column]
        squares_N[feature] = total


@loop((_ROWS, _VECTOR, _VECTOR, _VECTOR, _VECTOR))
def bound_square(rows, x_norms_B, grad_norms_B, aux_enc_norms_M, aux_dec_norms_M):
    """An upper bound of Σ `square_gradients`: a sum of vectors is at most as long as all of them together."""
    total = np.float64(0)
    for feature in range(len(rows.ranks_N)):
        rank = rows.ranks_N[feature]
        enc = aux_enc_norms_M[rank] if rank >= 0 else np.float32(0)
        dec = aux_dec_norms_M[rank] if rank >= 0 else np.float32(0)
        for entry in range(rows.pointers_P[feature], rows.pointers_P[feature + 1]):
            enc += abs(rows.slopes_E[entry]) * x_norms_B[rows.tokens_E[entry]]
            dec += rows.values_E[entry] * grad_norms_B[rows.tokens_E[entry]]
        total += enc * enc + dec * dec
    return total * 1.001  # room for the rounding of all these sums


@inlined
def _adam_row(grad_D, adam_8, weights_RD, means_RD, squares_RD, row):
    """Adam on one row, as torch's: a mean and a mean square of the gradient, both corrected for their start at 0."""
    factor, rate, keep_1, new_1, keep_2, new_2, correction, epsilon = adam_8
    for column in range(len(grad_D)):
        grad = grad_D[column] * factor
        mean = keep_1 * means_RD[row, column] + new_1 * grad
        square = keep_2 * squares_RD[row, column] + new_2 * grad * grad
        means_RD[row, column], squares_RD[row, column] = mean, square
        weights_RD[row, column] -= rate * mean / (np.sqrt(square) / correction + epsilon)


@loop((_INT, _INT, _ROWS, types.UniTuple(_TABLE, 3), types.UniTuple(_TABLE, 3), _ADAM))
def update(part, parts, rows, encoder_3, decoder_3, adam_8):
    """Gradient, Adam and unit norm of every feature, while its rows are in the cache.

    ``encoder_3`` and ``decoder_3`` are weights [N, D] and their mean and mean-square gradients.
    """
    (W_enc_ND, enc_means_ND, enc_squares_ND), (W_dec_ND, dec_means_ND, dec_squares_ND) = encoder_3, decoder_3
    width, columns = W_dec_ND.shape
    enc_D, dec_D = np.empty(columns, np.float32), np.empty(columns, np.float32)
    pointers_P = rows.pointers_P
    for feature in range(_share(part, parts, pointers_P, width), _share(part + 1, parts, pointers_P, width)):
        _row_gradients(feature, rows, enc_D, dec_D)
        _adam_row(enc_D, adam_8, W_enc_ND, enc_means_ND, enc_squares_ND, feature)
        _adam_row(dec_D, adam_8, W_dec_ND, dec_means_ND, dec_squares_ND, feature)
        norm = np.float32(0)
        for column in range(columns):
            norm += W_dec_ND[feature, column] * W_dec_ND[feature, column]
        norm = max(np.sqrt(norm), np.float32(1e-12))
        for column in range(columns):
            W_dec_ND[feature, column] /= norm


@loop((*[_VECTOR] * 4, _ADAM))
def update_vector(grad_N, weights_N, means_N, squares_N, adam_8):
    """Adam on a vector."""
    _adam_row(grad_N, adam_8, weights_N.reshape(1, -1), means_N.reshape(1, -1), squares_N.reshape(1, -1), 0)


@loop((CODE, _VECTOR))
def total(code, values_E):
    """Sum of the numbers that belong to the entries of a code."""
    result = np.float64(0)
    for row in range(len(code.starts_B)):
        for entry in range(code.starts_B[row], code.stops_B[row]):
            result += values_E[entry]
    return result
