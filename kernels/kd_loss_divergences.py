# mypy: disallow-untyped-defs=False
"""What the fused loss knows about each divergence; the kernels in kd_loss.py know none.

A tile holds the logits u of the student and v of a teacher, -inf outside the teacher's slice and
in rows that do not read it; p and q are their softmaxes at the teacher's temperature. A divergence
defines

- ``gather``: the sums it needs of a tile, and JS in ``complete`` those of a second look;
- ``settle``: its value and the slopes of its gradients from the sums, row by row;
- ``gradient``: ``own * p + other * q + ratio * p * log_ratio``, with (own, other, ratio, label) the
  slope of the side that is differentiated and p that side's softmax. DKD's terms leave the label
  out; its whole gradient there is ``label``.

The sums are a tuple of values per row: maximum and total of exponentials relative to it, of u and
of v, and two of the divergence's own. (Plain tuples: Triton 3.6 forgets the names of a tuple inside
another.) A probability of 0 times any logarithm is 0, and NaN stays NaN: comparisons are written
so that NaN takes the arithmetic branch.
"""

from __future__ import annotations

import triton
import triton.language as tl

from edufast.ops.kd_loss_reference import DIVERGENCES

FORWARD_KL = tl.constexpr(DIVERGENCES["forward_kl"])
REVERSE_KL = tl.constexpr(DIVERGENCES["reverse_kl"])
JS = tl.constexpr(DIVERGENCES["js"])
DKD = tl.constexpr(DIVERGENCES["dkd"])
_INF = tl.constexpr(float("inf"))


# --- softmax in pieces --------------------------------------------------------------------------


@triton.jit
def finite(maximum):
    """What to subtract before exponentials: 0 where there is nothing but -inf."""
    return tl.where(maximum == -_INF, 0.0, maximum)


@triton.jit
def positive(total):
    """What to divide by and take the logarithm of: 1 where there is nothing but -inf."""
    return tl.where(total == 0, 1.0, total)


@triton.jit
def rescale(x, scale):
    """x * scale for a sum so far: 0 where everything before was -inf, NaN where it was NaN."""
    return tl.where((scale == 0) & (x == x), 0.0, x * scale)


@triton.jit
def _relative(x, maximum, temperature):
    return (x - finite(maximum)[:, None]) * (1.0 / temperature)


@triton.jit
def _log_add(x, y):
    return tl.maximum(x, y) + tl.log(1.0 + tl.exp(-tl.abs(x - y)))


@triton.jit
def _log_ratio(log_p, log_q, p):
    return tl.where((p == 0) | (log_q == -_INF), 0.0, log_p - log_q)


@triton.jit
def _log_mixture(log_p, log_q, beta):
    """log m, m = beta * q + (1 - beta) * p with p the student's side."""
    return _log_add(log_p + tl.log(1.0 - beta), log_q + tl.log(beta))


# --- sums ---------------------------------------------------------------------------------------


@triton.jit
def empty_sums(ROWS: tl.constexpr):
    zero = tl.zeros([ROWS], tl.float32)
    return zero - _INF, zero, zero - _INF, zero, zero, zero


@triton.jit
def gather(sums, u, v, temperature, DIVERGENCE: tl.constexpr):
    """Add a tile to the sums.

    KL and DKD: ``first`` is sum p log(p / q) of the exponentials, p being the divergence's first
    argument; ``second`` is 1 once that side has mass, though it may underflow, and the other none.
    """
    old_u_max, u_total, old_v_max, v_total, first, second = sums
    u_max, v_max = tl.maximum(old_u_max, tl.max(u, 1)), tl.maximum(old_v_max, tl.max(v, 1))
    u_scale = tl.exp((old_u_max - finite(u_max)) / temperature)
    v_scale = tl.exp((old_v_max - finite(v_max)) / temperature)
    log_p, log_q = _relative(u, u_max, temperature), _relative(v, v_max, temperature)
    p, q = tl.exp(log_p), tl.exp(log_q)
    # How far the maxima moved since the last tile changes every log(p / q) summed so far.
    u_drift, v_drift = finite(old_u_max) - finite(u_max), finite(old_v_max) - finite(v_max)
    drift = (u_drift - v_drift) / temperature
    if DIVERGENCE == REVERSE_KL:
        first = rescale(first + u_total * drift, u_scale)
        first += tl.sum(p * _log_ratio(log_p, log_q, p), 1)
        outside = (u > -_INF) & (v == -_INF)
        second = tl.maximum(second, tl.max(tl.where(outside, 1.0, 0.0), 1))
    elif DIVERGENCE != JS:
        first = rescale(first - v_total * drift, v_scale)
        first += tl.sum(q * _log_ratio(log_q, log_p, q), 1)
        outside = (v > -_INF) & (u == -_INF)
        second = tl.maximum(second, tl.max(tl.where(outside, 1.0, 0.0), 1))
    u_total = rescale(u_total, u_scale) + tl.sum(p, 1)
    v_total = rescale(v_total, v_scale) + tl.sum(q, 1)
    return u_max, u_total, v_max, v_total, first, second


@triton.jit
def complete(sums, whole, u, v, temperature, beta):
    """JS: add a tile's sum p log(p / m) to ``first``, sum q log(q / m) to ``second``.

    ``whole`` is what ``gather`` summed over all tiles.
    """
    u_max, u_total, v_max, v_total, first, second = sums
    log_p, p = softmax(u, whole[0], whole[1], temperature)
    log_q, q = softmax(v, whole[2], whole[3], temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    first += tl.sum(p * _log_ratio(log_p, log_m, p), 1)
    second += tl.sum(q * _log_ratio(log_q, log_m, q), 1)
    return u_max, u_total, v_max, v_total, first, second


@triton.jit
def softmax(x, maximum, total, temperature):
    """Its logarithm, and itself by the very exponentials of ``gather``, which are thus reused."""
    log_p, total = _relative(x, maximum, temperature), positive(total)
    return log_p - tl.log(total)[:, None], tl.exp(log_p) * (1.0 / total)[:, None]


# --- values and slopes --------------------------------------------------------------------------


@triton.jit
def settle(
    sums, u_label, v_label, has_label, temperature, param0, param1, DIVERGENCE: tl.constexpr
):  # fmt: skip
    """Value, slope on the student's side, slope on the teacher's.

    DKD gets the logits of the label, -inf where not ``has_label``; the others ignore them. A side
    with nothing but -inf makes everything 0.
    """
    u_max, u_total, v_max, v_total, first, second = sums
    both = (u_total != 0) & (v_total != 0)
    one = tl.where(both, 1.0, 0.0)
    zero = tl.zeros_like(one)
    log_totals = tl.log(positive(u_total)) - tl.log(positive(v_total))
    infinite = tl.where(both & (second != 0), _INF, 0.0)
    if DIVERGENCE == JS:
        u_part = tl.where(both, (1.0 - param0) * first, 0.0)
        v_part = tl.where(both, param0 * second, 0.0)
        value = u_part + v_part
        u_slope = (-u_part, zero, (1.0 - param0) * one, zero)
        v_slope = (-v_part, zero, param0 * one, zero)
    elif DIVERGENCE == REVERSE_KL:
        value = tl.where(both, first / positive(u_total) - log_totals, 0.0)
        u_slope = (-value, zero, one, zero)
        v_slope = (one, -one, zero, zero)
        value += infinite
    else:
        value = tl.where(both, first / positive(v_total) + log_totals, 0.0)
        u_slope = (one, -one, zero, zero)
        v_slope = (-value, zero, one, zero)
        value += infinite
    if DIVERGENCE == DKD:
        u_rest = tl.where(u_total == 0, -_INF, tl.log(positive(u_total)))
        v_rest = tl.where(v_total == 0, -_INF, tl.log(positive(v_total)))
        u_label = (u_label - finite(u_max)) / temperature
        v_label = (v_label - finite(v_max)) / temperature
        value, u_slope, v_slope = _decouple(
            value, u_slope, v_slope, u_rest, v_rest, u_label, v_label, has_label, param0, param1
        )
    return value, u_slope, v_slope


@triton.jit
def _decouple(
    rest, u_slope, v_slope, u_rest, v_rest, u_label, v_label, has_label, target, other
):  # fmt: skip
    """DKD from ``rest``, the forward KL over the classes without the label, and its slopes.

    With b = (p_y, 1 - p_y) on either side: ``target * KL(b_t || b_s) + other * rest``. u and v are
    softened logits of the label, and log-sum-exps of the other classes.
    """
    defined = has_label & ((u_label != -_INF) | (u_rest != -_INF))
    defined &= (v_label != -_INF) | (v_rest != -_INF)
    u_lse, v_lse = _log_add(u_label, u_rest), _log_add(v_label, v_rest)
    log_py, log_po = u_label - u_lse, u_rest - u_lse
    log_qy, log_qo = v_label - v_lse, v_rest - v_lse
    qy, qo = tl.exp(log_qy), tl.exp(log_qo)
    ratio_y, ratio_o = _log_ratio(log_qy, log_py, qy), _log_ratio(log_qo, log_po, qo)
    outside = ((v_label > -_INF) & (u_label == -_INF)) | ((v_rest > -_INF) & (u_rest == -_INF))
    binary = qy * ratio_y + qo * ratio_o + tl.where(outside, _INF, 0.0)
    binary = tl.where(defined, binary, 0.0)
    shift = target * tl.where(defined, tl.exp(log_po) - qo, 0.0)
    u_at_label = target * tl.where(defined, tl.exp(log_py) - qy, 0.0)
    v_at_label = target * tl.where(defined, (ratio_y - ratio_o) * qy * qo, 0.0)
    u_slope = (shift + other * u_slope[0], other * u_slope[1], u_slope[2], u_at_label)
    v_slope = (other * v_slope[0] - v_at_label, v_slope[1], other * v_slope[2], v_at_label)
    return target * binary + other * rest, u_slope, v_slope


@triton.jit
def gradient(
    slope, log_p, p, log_q, q, is_label, beta, DIVERGENCE: tl.constexpr, TEACHER: tl.constexpr
):  # fmt: skip
    """The gradient on p's side, the teacher's if ``TEACHER``; ``beta`` is JS's."""
    own, other, ratio, label = slope
    value = own[:, None] * p
    if DIVERGENCE == JS:
        log_m = _log_mixture(log_q, log_p, beta) if TEACHER else _log_mixture(log_p, log_q, beta)
        value += ratio[:, None] * (p * _log_ratio(log_p, log_m, p))
    elif (DIVERGENCE == REVERSE_KL) == TEACHER:
        value += other[:, None] * q
    else:
        value += ratio[:, None] * (p * _log_ratio(log_p, log_q, p))
    if DIVERGENCE == DKD:
        value = tl.where(is_label, label[:, None], value)
    return value
