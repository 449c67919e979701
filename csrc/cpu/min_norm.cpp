// AEKD's weights on the CPU: which thread takes which rows; the small quadratic program.
#include "cpu/isa.h"
#include "cpu/min_norm_rows.h"
#include "cpu/scratch.h"
#include "parallel.h"

#include <algorithm>
#include <cmath>
#include <vector>

EDUFAST_FOR_EACH_ISA(EDUFAST_DECLARE_GRAM)

namespace edufast::cpu {
namespace {

// Rows that are summed together, whatever the number of threads: the same bits for all.
constexpr int64_t kRows = 16;
// Below some ten microseconds of work, waking a thread does not pay.
constexpr int64_t kLogitsPerThread = 32768;

}  // namespace

void gradient_gram(const GradientGram& p) {
  const int64_t k = p.num_teachers, blocks = (p.rows + kRows - 1) / kRows;
  std::vector<double> partials(blocks * k * k);
  const int64_t bytes = EDUFAST_LOOPS(gram_scratch)(p);
  const int64_t grain = 1 + kLogitsPerThread / (kRows * (k + 1) * p.classes);
  parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    const Scratch scratch(bytes);
    for (int64_t b = begin; b < end; ++b)
      EDUFAST_LOOPS(gram_rows)(p, b * kRows, std::min(p.rows, (b + 1) * kRows),
                               &partials[b * k * k], scratch.get());
  });
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t b = 0; b < blocks; ++b) sum += partials[(b * k + i) * k + j];
      p.gram[i * k + j] = p.gram[j * k + i] = sum;
    }
}

// --- the quadratic program: step for step as `reference_weights` --------------------------------

namespace {

// Solves m [x, y] = [x, y] in place by m = L D L', of which m becomes L. In exact arithmetic m is
// positive definite; of teachers that hardly differ it may not be, so that no square root is taken.
void solve(int n, double (*m)[kMaxTeachers], double* x, double* y) {
  double pivot[kMaxTeachers];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < i; ++j) {
      double sum = m[i][j];
      for (int l = 0; l < j; ++l) sum -= m[i][l] * pivot[l] * m[j][l];
      m[i][j] = sum / pivot[j];
    }
    pivot[i] = m[i][i];
    for (int l = 0; l < i; ++l) {
      pivot[i] -= m[i][l] * pivot[l] * m[i][l];
      x[i] -= m[i][l] * x[l];
      y[i] -= m[i][l] * y[l];
    }
  }
  for (int i = n - 1; i >= 0; --i) {
    x[i] /= pivot[i];
    y[i] /= pivot[i];
    for (int l = i + 1; l < n; ++l) {
      x[i] -= m[l][i] * x[l];
      y[i] -= m[l][i] * y[l];
    }
  }
}

}  // namespace

void min_norm_weights(const double* gram, int64_t num_teachers, double cap, float* weights) {
  const int n = static_cast<int>(num_teachers);
  const bool capped = cap < 1;
  double largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, gram[i * n + i]);
  const double unit = largest > 0 ? largest : 1;  // 1 / unit could overflow
  double x[kMaxTeachers], z[kMaxTeachers], slack[kMaxTeachers], w[kMaxTeachers];
  for (int i = 0; i < n; ++i) {
    x[i] = 1.0 / n;
    z[i] = 1;
    slack[i] = cap - x[i];
    w[i] = capped;
  }
  for (int iteration = 0; iteration < kMinNormIterations; ++iteration) {
    double gap = 0;
    for (int i = 0; i < n; ++i) gap += x[i] * z[i] + (capped ? slack[i] * w[i] : 0);
    const double target = std::max(kMinNormSigma * gap / (capped ? 2 * n : n), kMinNormFloor);
    double m[kMaxTeachers][kMaxTeachers], dx[kMaxTeachers], ones[kMaxTeachers];
    for (int i = 0; i < n; ++i) {
      dx[i] = target / x[i];
      ones[i] = 1;
      for (int j = 0; j < n; ++j) {
        m[i][j] = gram[i * n + j] / unit;
        dx[i] -= m[i][j] * x[j];
      }
      m[i][i] += z[i] / x[i];
      if (!capped) continue;
      dx[i] -= target / slack[i];
      m[i][i] += w[i] / slack[i];
    }
    solve(n, m, dx, ones);
    double dx_total = 0, ones_total = 0;
    for (int i = 0; i < n; ++i) {
      dx_total += dx[i];
      ones_total += ones[i];
    }
    double step = 1, dz[kMaxTeachers], dw[kMaxTeachers];
    const auto limit = [&](double value, double change) {
      if (change < 0) step = std::min(step, -kMinNormToBoundary * value / change);
    };
    for (int i = 0; i < n; ++i) {
      dx[i] -= ones[i] * (dx_total / ones_total);
      dz[i] = (target - z[i] * dx[i]) / x[i] - z[i];
      limit(x[i], dx[i]);
      limit(z[i], dz[i]);
      if (!capped) continue;
      dw[i] = (target + w[i] * dx[i]) / slack[i] - w[i];
      limit(slack[i], -dx[i]);
      limit(w[i], dw[i]);
    }
    for (int i = 0; i < n; ++i) {
      x[i] += step * dx[i];
      z[i] += step * dz[i];
      if (!capped) continue;
      slack[i] -= step * dx[i];
      w[i] += step * dw[i];
    }
  }
  double total = 0;
  for (int i = 0; i < n; ++i) total += x[i] = x[i] < kMinNormNegligible ? 0 : x[i];
  for (int i = 0; i < n; ++i) weights[i] = static_cast<float>(std::min(x[i] / total, cap));
}

}  // namespace edufast::cpu
