# mypy: disallow-untyped-defs=False
"""What the fused loss knows about each divergence; the kernels in kd_loss.py know none.

docs/kernels.md derives it, with the names that are used here. A tile holds the logits z of the
student and t of a teacher, -inf outside the teacher's slice and in rows that do not read it; p and
q are their softmaxes at the teacher's temperature. A divergence has

- ``accumulate``: the sums it needs of a tile, and JS in ``accumulate_mixture`` those of a second
  look;
- ``divergence``: from the sums, row by row, its value and the coefficients (own, other, ratio,
  mean, label) of the student's gradient and of the teacher's;
- ``gradient``: ``own * p + other * q + ratio * p * (log_ratio - mean)``, p the softmax of the side
  that is differentiated. DKD's terms leave the label out; its whole gradient there is ``label``.

The sums are a tuple of values per row: maximum and sum of exponentials relative to it, of z and of
t, and two by which the divergence compares them, of q and of p. (Plain tuples: Triton 3.6 forgets
the names of a tuple inside another.)
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from edufast.kernels._common import exp, finite, positive, rescale

from edufast.ops._numbers import Number
from edufast.ops.reference._softmax import LARGEST_DIVERGENCE
from edufast.ops.reference.kd_loss_divergences import DIVERGENCES

FORWARD_KL = tl.constexpr(DIVERGENCES["forward_kl"])
REVERSE_KL = tl.constexpr(DIVERGENCES["reverse_kl"])
JS = tl.constexpr(DIVERGENCES["js"])
DKD = tl.constexpr(DIVERGENCES["dkd"])
_INF = tl.constexpr(float("inf"))
_LARGEST = tl.constexpr(LARGEST_DIVERGENCE)


def parameters(divergence: int, params: Sequence[Number]) -> tuple[Number, Number]:
    """What the kernels call param0 and param1; JS: beta and 1 - beta, each rounded once."""
    if divergence == DIVERGENCES["js"]:
        return params[0], 1 - params[0]
    first, second, *_ = [*params, 0.0, 0.0]
    return first, second


# --- softmax in pieces --------------------------------------------------------------------------


@triton.jit
def _shifted(x, maximum, temperature):
    """u or v of docs/kernels.md."""
    return (x - finite(maximum)[:, None]) * (1.0 / temperature)


@triton.jit
def softmax(x, maximum, total, temperature):
    """Its logarithm, and itself by the exponentials of ``accumulate``, which are thus reused."""
    log_p, total = _shifted(x, maximum, temperature), positive(total)
    return log_p - tl.log(total)[:, None], exp(log_p) * (1.0 / total)[:, None]


@triton.jit
def _log_add(x, y):
    return tl.maximum(x, y) + tl.log(1.0 + exp(-tl.abs(x - y)))


@triton.jit
def _log_ratio(log_p, log_q, p):
    return tl.where((p == 0) | (log_q == -_INF), 0.0, log_p - log_q)


@triton.jit
def _weighted_log_ratio(e, u, v):
    """e (u - v): 0 where u has no mass; infinite where v alone has none, though e may underflow."""
    weighted = tl.where(e == 0, 0.0, e * tl.where(u == -_INF, 0.0, u - v))
    return tl.where((v == -_INF) & (u != -_INF), e + _INF, weighted)


@triton.jit
def _log_to_mixture(p, q, q_share, p_share):
    """log(p / m), m = p_share * p + q_share * q; 0 where p is.

    m / p - 1 is formed from q - p: with a share of 1e-7, m itself would be p or q after rounding.
    """
    y = q_share * ((q - p) / p)
    x = 1.0 + y
    # The logarithm of 1 + y that has the digits of y, though x has lost them (Kahan).
    near = tl.where(x == 1.0, y, tl.log(x) * (y / (x - 1.0)))
    most = 1e37  # instead of an overflow, where p is about to underflow
    far = p_share + q_share * (q / p)
    far = tl.log(tl.where(far > most, most, far))
    return tl.where(p == 0, 0.0, -tl.where(tl.abs(y) < 0.5, near, far))


# --- sums ---------------------------------------------------------------------------------------


@triton.jit
def empty_sums(ROWS: tl.constexpr):
    zero = tl.zeros([ROWS], tl.float32)
    return zero - _INF, zero, zero - _INF, zero, zero, zero


@triton.jit
def accumulate(sums, z, t, temperature, DIVERGENCE: tl.constexpr):
    """Add a tile to the sums: ``q_cross`` is that of e^v (v - u), ``p_cross`` of e^u (u - v)."""
    old_z_max, z_sum, old_t_max, t_sum, q_cross, p_cross = sums
    z_max, t_max = tl.maximum(old_z_max, tl.max(z, 1)), tl.maximum(old_t_max, tl.max(t, 1))
    z_scale = exp((old_z_max - finite(z_max)) / temperature)
    t_scale = exp((old_t_max - finite(t_max)) / temperature)
    u, v = _shifted(z, z_max, temperature), _shifted(t, t_max, temperature)
    e, f = exp(u), exp(v)
    # How far the maxima moved since the last tile changes every u - v summed so far.
    z_drift, t_drift = finite(old_z_max) - finite(z_max), finite(old_t_max) - finite(t_max)
    drift = (z_drift - t_drift) / temperature
    if (DIVERGENCE == FORWARD_KL) | (DIVERGENCE == DKD):
        q_cross = rescale(q_cross - t_sum * drift, t_scale)
        q_cross += tl.sum(_weighted_log_ratio(f, v, u), 1)
    if DIVERGENCE == REVERSE_KL:
        p_cross = rescale(p_cross + z_sum * drift, z_scale)
        p_cross += tl.sum(_weighted_log_ratio(e, u, v), 1)
    z_sum = rescale(z_sum, z_scale) + tl.sum(e, 1)
    t_sum = rescale(t_sum, t_scale) + tl.sum(f, 1)
    return z_max, z_sum, t_max, t_sum, q_cross, p_cross


@triton.jit
def accumulate_mixture(sums, whole, z, t, temperature, beta, one_minus_beta):
    """JS: add a tile's sums of q log(q / m) and of p log(p / m) to the last two.

    ``whole`` is what ``accumulate`` summed over all tiles.
    """
    z_max, z_sum, t_max, t_sum, q_to_m, p_to_m = sums
    _, p = softmax(z, whole[0], whole[1], temperature)
    _, q = softmax(t, whole[2], whole[3], temperature)
    q_to_m += tl.sum(q * _log_to_mixture(q, p, one_minus_beta, beta), 1)
    p_to_m += tl.sum(p * _log_to_mixture(p, q, beta, one_minus_beta), 1)
    return z_max, z_sum, t_max, t_sum, q_to_m, p_to_m


# --- value and coefficients of each -------------------------------------------------------------


@triton.jit
def settled(divergence):
    """Infinite where sums may overflow."""
    return tl.where(divergence > _LARGEST, _INF, divergence)


@triton.jit
def _forward_kl(sums):
    """DKD, too: over the classes without the label."""
    _, z_sum, _, t_sum, q_cross, _ = sums
    both = (z_sum != 0) & (t_sum != 0)
    value = q_cross / positive(t_sum) + (tl.log(positive(z_sum)) - tl.log(positive(t_sum)))
    value = tl.where(both, settled(value), 0.0)
    mean = tl.where(value == _INF, 0.0, value)  # no gradient is promised there, but a finite one
    one = tl.where(both, 1.0, 0.0)
    zero = tl.zeros_like(one)
    return value, (one, -one, zero, zero, zero), (zero, zero, one, mean, zero)


@triton.jit
def _reverse_kl(sums):
    z_max, z_sum, t_max, t_sum, q_cross, p_cross = sums
    value, of_teacher, of_student = _forward_kl((t_max, t_sum, z_max, z_sum, p_cross, q_cross))
    return value, of_student, of_teacher


@triton.jit
def _js(sums, beta, one_minus_beta):
    _, z_sum, _, t_sum, q_to_m, p_to_m = sums
    one = tl.where((z_sum != 0) & (t_sum != 0), 1.0, 0.0)
    zero = tl.zeros_like(one)
    p_to_m, q_to_m = tl.where(one != 0, p_to_m, 0.0), tl.where(one != 0, q_to_m, 0.0)
    value = one_minus_beta * p_to_m + beta * q_to_m
    of_student = (zero, zero, one_minus_beta * one, p_to_m, zero)
    return value, of_student, (zero, zero, beta * one, q_to_m, zero)


@triton.jit
def _dkd(sums, z_label, t_label, has_label, temperature, target_weight, rest_weight):
    """``target_weight * KL(b_t || b_s) + rest_weight * KL(rest of t || rest of s)``.

    b = (p_y, p_rest) on either side, from the log-sum-exps of the classes without the label y.
    """
    z_max, z_sum, t_max, t_sum, _, _ = sums
    rest, of_student, of_teacher = _forward_kl(sums)
    u_rest = tl.where(z_sum == 0, -_INF, tl.log(positive(z_sum)))
    v_rest = tl.where(t_sum == 0, -_INF, tl.log(positive(t_sum)))
    u_label = (z_label - finite(z_max)) / temperature
    v_label = (t_label - finite(t_max)) / temperature
    defined = has_label & ((u_label != -_INF) | (u_rest != -_INF))
    defined &= (v_label != -_INF) | (v_rest != -_INF)
    u_lse, v_lse = _log_add(u_label, u_rest), _log_add(v_label, v_rest)
    log_p_label, log_p_rest = u_label - u_lse, u_rest - u_lse
    log_q_label, log_q_rest = v_label - v_lse, v_rest - v_lse
    q_label, q_rest = exp(log_q_label), exp(log_q_rest)
    ratio_label = _log_ratio(log_q_label, log_p_label, q_label)
    ratio_rest = _log_ratio(log_q_rest, log_p_rest, q_rest)
    target = _weighted_log_ratio(q_label, log_q_label, log_p_label)
    target += _weighted_log_ratio(q_rest, log_q_rest, log_p_rest)
    target = tl.where(defined, settled(target), 0.0)

    # The student's: of the others from p_rest - q_rest, of the label from p_label - q_label.
    to_rest = target_weight * tl.where(defined, exp(log_p_rest) - q_rest, 0.0)
    to_label = target_weight * tl.where(defined, exp(log_p_label) - q_label, 0.0)
    own, other, _, _, _ = of_student
    zero = tl.zeros_like(own)
    of_student = (to_rest + rest_weight * own, rest_weight * other, zero, zero, to_label)
    s = target_weight * tl.where(defined, (ratio_label - ratio_rest) * q_label * q_rest, 0.0)
    _, _, ratio, mean, _ = of_teacher
    of_teacher = (-s, zero, rest_weight * ratio, mean, s)
    return target_weight * target + rest_weight * rest, of_student, of_teacher


@triton.jit
def divergence(
    sums, z_label, t_label, has_label, temperature, param0, param1, DIVERGENCE: tl.constexpr
):  # fmt: skip
    """Value, coefficients of the student's gradient, coefficients of the teacher's.

    DKD gets the logits of the label, -inf where not ``has_label``; the others ignore them. A side
    with nothing but -inf makes everything 0.
    """
    if DIVERGENCE == FORWARD_KL:
        return _forward_kl(sums)
    elif DIVERGENCE == REVERSE_KL:
        return _reverse_kl(sums)
    elif DIVERGENCE == JS:
        return _js(sums, param0, param1)
    else:
        return _dkd(sums, z_label, t_label, has_label, temperature, param0, param1)


# --- gradient -----------------------------------------------------------------------------------


@triton.jit
def gradient(
    coefficients, log_p, p, log_q, q, is_label, q_share, p_share,
    DIVERGENCE: tl.constexpr, TEACHER: tl.constexpr,
):  # fmt: skip
    """The gradient on p's side, the teacher's if ``TEACHER``; the shares are those in JS's m."""
    own, other, ratio, mean, label = coefficients
    value = own[:, None] * p
    # The first argument of a KL divergence has a ratio, the second has an other.
    FIRST: tl.constexpr = (DIVERGENCE == REVERSE_KL) != TEACHER
    if DIVERGENCE == JS:
        log_ratio = _log_to_mixture(p, q, q_share, p_share)
        value += ratio[:, None] * (p * (log_ratio - mean[:, None]))
    elif FIRST:
        value += ratio[:, None] * (p * (_log_ratio(log_p, log_q, p) - mean[:, None]))
    else:
        value += other[:, None] * q
    if DIVERGENCE == DKD:
        value = tl.where(is_label, label[:, None], value)
    return value
