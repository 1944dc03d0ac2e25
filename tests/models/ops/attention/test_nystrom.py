import pytest
import torch
import torch.nn.functional as F

from models.ops.attention.nystrom import (
    LandmarkAttention,
    PseudoInverse,
    divide,
    segment_means,
    value_residual,
)

EXACT = {"rtol": 1e-10, "atol": 1e-11}


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def literal_inverse(matrix, iterations):
    """The published iteration on one matrix of each of h heads, (h, R, R), as it is written."""
    rows = matrix.abs().sum(2).max()
    columns = matrix.abs().sum(1).max()
    z, eye = matrix.transpose(1, 2) / (rows * columns), torch.eye(matrix.shape[1]).double()
    for _ in range(iterations):
        y = matrix @ z
        z = 0.25 * z @ (13 * eye - y @ (15 * eye - y @ (7 * eye - y)))
    return z


def literal_attention(queries, keys, values, landmarks, iterations):
    """F Z B of one bag with all zeros written out in front; q, k, v are (h, T, d)."""
    heads, tokens, width = queries.shape
    zeros = torch.zeros(heads, -tokens % landmarks, width, dtype=torch.float64)
    queries, keys, values = (torch.cat([zeros, t], 1) for t in (queries, keys, values))
    scale = width**-0.5
    query_marks = torch.stack([c.mean(1) for c in queries.chunk(landmarks, 1)], 1)
    key_marks = torch.stack([c.mean(1) for c in keys.chunk(landmarks, 1)], 1)
    first = (queries @ key_marks.transpose(1, 2) * scale).softmax(2)
    second = (query_marks @ key_marks.transpose(1, 2) * scale).softmax(2)
    third = (query_marks @ keys.transpose(1, 2) * scale).softmax(2)
    full = first @ literal_inverse(second, iterations) @ third
    return (full @ values)[:, -tokens:], full[:, -tokens:, -tokens:]


def through_landmarks(queries, keys, values, landmarks, iterations):
    """Ours on one bag: the output, and the row of the first token without the zero token."""
    segments = divide(queries.shape[1], landmarks)
    marks = [segment_means(t, segments).unsqueeze(0) for t in (queries, keys)]
    attention = LandmarkAttention(*marks, segments, iterations)
    padded = [F.pad(t, (0, 0, 1, 0)).unsqueeze(0) for t in (keys, values)]
    output = attention.output(queries.unsqueeze(0), *padded)
    return output[0], attention.row(queries[None, :, :1], padded[0])[0, :, 1:]


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 9, 13, 16, 31])
def test_zeros_that_are_not_stored_count_as_zeros_written_out(tokens):
    """The first token stays the first row, and its row over the tokens is that of F Z B."""
    queries, keys, values = normal(3, 2, tokens, 4) * 1.5
    expected, full = literal_attention(queries, keys, values, landmarks=8, iterations=6)
    output, row = through_landmarks(queries, keys, values, landmarks=8, iterations=6)
    torch.testing.assert_close(output, expected, **EXACT)
    torch.testing.assert_close(row, full[:, 0], **EXACT)


@pytest.mark.parametrize(("tokens", "landmarks"), [(10, 4), (3, 8), (8, 8), (9, 8), (17, 5)])
def test_segments_by_writing_the_zeros_out(tokens, landmarks):
    values = normal(2, tokens, 3)
    padded = F.pad(values, (0, 0, -tokens % landmarks, 0))
    means = torch.stack([c.mean(1) for c in padded.chunk(landmarks, 1)], 1)
    segments = divide(tokens, landmarks)
    assert segments.padding == -tokens % landmarks
    whole = (means == 0).all(2).all(0).sum().item()
    assert segments.zeros == whole
    expected = means[:, max(whole - 1, 0) :]  # zero landmarks are alike; one is kept
    torch.testing.assert_close(segment_means(values, segments), expected, **EXACT)


def test_as_many_landmarks_as_tokens_give_full_attention():
    # A A+ A = A. Smallest singular values near 1e-2 need about 12 steps; 20 reach float64's limit.
    queries, keys, values = normal(3, 2, 12, 8, seed=3) * 1.5
    output, row = through_landmarks(queries, keys, values, landmarks=12, iterations=20)
    attention = (queries @ keys.transpose(1, 2) / 8**0.5).softmax(2)
    torch.testing.assert_close(output, attention @ values, rtol=0, atol=1e-10)
    torch.testing.assert_close(row, attention[:, 0], rtol=0, atol=1e-10)


def test_pseudo_inverse_of_regular_and_of_singular_matrices():
    regular = (normal(2, 6, 6) + 2 * torch.eye(6).double()).softmax(2)
    singular = torch.cat([regular[:, :3], regular[:, :3]], dim=1)  # rank 3
    ones = torch.ones(6, dtype=torch.float64)
    for matrix, iterations in ((regular, 12), (singular, 12)):
        inverse = PseudoInverse(matrix.unsqueeze(0), ones, iterations)
        eye = torch.eye(6, dtype=torch.float64).expand(1, 2, 6, 6)
        expected = torch.linalg.pinv(matrix).unsqueeze(0)
        torch.testing.assert_close(inverse.times(eye), expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(inverse.after(eye), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("iterations", [1, 2, 6])
def test_every_step_of_the_iteration(iterations):
    matrix = normal(2, 5, 5, seed=1).softmax(2)
    expected = literal_inverse(matrix, iterations)
    inverse = PseudoInverse(matrix.unsqueeze(0), torch.ones(5).double(), iterations)
    columns, rows = normal(1, 2, 5, 3), normal(1, 2, 4, 5)
    torch.testing.assert_close(inverse.times(columns)[0], expected @ columns[0], **EXACT)
    torch.testing.assert_close(inverse.after(rows)[0], rows[0] @ expected, **EXACT)


def test_one_step_of_a_uniform_matrix_by_hand():
    # A = 1/2 everywhere: sums 1, Z_0 = A, A Z_0 = A, and A^k = A, so
    # Z_1 = A (13 - 15 + 7 - 1) / 4 = A, its own pseudo-inverse.
    matrix = torch.full((1, 1, 2, 2), 0.5)
    inverse = PseudoInverse(matrix, torch.ones(2), 1)
    torch.testing.assert_close(inverse.times(torch.eye(2).expand(1, 1, 2, 2)), matrix)
    # A = I: Z_1 = (13 - 15 + 7 - 1) / 4 I = I; Z_0 = I / 2 with one row of two that ask for it
    skewed = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    # column sums 2 and 0: Z_0 = A^T / 2 = [[.5, .5], [0, 0]] is the pseudo-inverse already
    inverse = PseudoInverse(skewed, torch.ones(2), 1)
    expected = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]]]])
    torch.testing.assert_close(inverse.times(torch.eye(2).expand(1, 1, 2, 2)), expected)


def test_bags_of_a_batch_keep_their_own_scale_and_heads_share_it():
    matrices = normal(3, 2, 5, 5, seed=2).mul(3).softmax(3)
    columns = torch.eye(5).double().expand(3, 2, 5, 5)
    together = PseudoInverse(matrices, torch.ones(5).double(), 2).times(columns)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(found, literal_inverse(matrix, 2), **EXACT)


def test_gradients_of_the_row_and_of_the_output():
    """The row is differentiated by our own formula, head by head."""
    queries, keys, values = (t.requires_grad_() for t in normal(3, 2, 5, 3))
    through = torch.autograd.gradcheck(
        lambda q, k, v: through_landmarks(q, k, v, landmarks=4, iterations=2),
        (queries, keys, values),
    )
    assert through
    for tokens, landmarks in ((7, 3), (2, 4)):
        leaves = [t.requires_grad_() for t in normal(3, 2, tokens, 3, seed=5)]
        weights = normal(2, tokens), normal(2, tokens, 3, seed=1)
        found, row = through_landmarks(*leaves, landmarks=landmarks, iterations=6)
        ours = torch.autograd.grad((row * weights[0]).sum() + (found * weights[1]).sum(), leaves)
        expected, full = literal_attention(*leaves, landmarks=landmarks, iterations=6)
        total = (full[:, 0] * weights[0]).sum() + (expected * weights[1]).sum()
        for mine, theirs in zip(ours, torch.autograd.grad(total, leaves), strict=True):
            torch.testing.assert_close(mine, theirs, **EXACT)


def test_autocast_leaves_the_inverse_in_single_precision():
    matrix = normal(1, 2, 32, 32).mul(3).softmax(3).float()
    columns, ones = normal(1, 2, 32, 4).float(), torch.ones(32)
    queries, keys, values = normal(3, 2, 20, 4).float()
    expected = PseudoInverse(matrix, ones, 6).times(columns)
    row = through_landmarks(queries, keys, values, landmarks=8, iterations=6)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inverse = PseudoInverse(matrix, ones, 6)
        assert torch.equal(inverse.times(columns), expected)
        assert inverse.times(columns.bfloat16()).dtype == torch.float32
        assert inverse.after(columns.transpose(2, 3).bfloat16()).dtype == torch.float32
        assert torch.equal(through_landmarks(queries, keys, values, 8, 6)[1], row)
        lower = [t.bfloat16() for t in (queries, keys, values)]
        output, lower_row = through_landmarks(*lower, landmarks=8, iterations=6)
    assert (output.dtype, lower_row.dtype) == (torch.bfloat16, torch.float32)


def test_residual_by_a_loop():
    values, kernel = normal(2, 9, 3, 2), normal(3, 1, 5, 1)
    expected = torch.zeros_like(values)
    for place in range(9):
        for tap in range(5):
            source = place + tap - 2
            if 0 <= source < 9:
                expected[:, place] += kernel[:, 0, tap, 0, None] * values[:, source]
    torch.testing.assert_close(value_residual(values, kernel), expected, **EXACT)
