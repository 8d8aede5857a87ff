// What a step of training does with all gradients at once. Plain loops that the compiler vectorises; every level
// includes this file.
#pragma once

#include "rows.h"

namespace llm {
namespace {

// Elements in groups as long as a vector register, each a sum of its own.
inline double sum_of_squares(const float* x, int64_t count) {
  constexpr int64_t kBlock = 4096;  // float32 is exact enough for so many terms
  double total = 0;
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t end = first + kBlock < count ? first + kBlock : count;
    float sums[kTile] = {};
    int64_t i = first;
    for (; i + kTile <= end; i += kTile)
      for (int64_t j = 0; j < kTile; ++j) sums[j] += x[i + j] * x[i + j];
    for (int64_t j = 0; i < end; ++i, ++j) sums[j] += x[i] * x[i];
    for (const float sum : sums) total += sum;
  }
  return total;
}

template <typename Load, typename Store>
void adamw_with(const Update& u, int64_t first, int64_t last, Load mean_at, Store set_mean) {
  float* __restrict parameter = u.parameter;
  float* __restrict square = u.square;
  const float* __restrict gradient = u.gradient;
  for (int64_t i = first; i < last; ++i) {
    const float g = gradient[i] * u.clip;
    const float m = u.beta1 * mean_at(i) + (1 - u.beta1) * g;
    const float v = u.beta2 * square[i] + (1 - u.beta2) * g * g;
    const float change = m * u.mean_scale / (std::sqrt(v * u.square_scale) + u.epsilon) + u.decay * parameter[i];
    set_mean(i, m), square[i] = v, parameter[i] -= u.rate * change;
  }
}

// Elements first … last - 1 of AdamW (arXiv:1711.05101).
inline void adamw(const Update& u, int64_t first, int64_t last) {
  if (u.mean.is_bfloat16) {
    uint16_t* __restrict mean = static_cast<uint16_t*>(u.mean.data);
    adamw_with(u, first, last, [=](int64_t i) { return from_bfloat16(mean[i]); },
               [=](int64_t i, float x) { mean[i] = to_bfloat16(x); });
  } else {
    float* __restrict mean = static_cast<float*>(u.mean.data);
    adamw_with(u, first, last, [=](int64_t i) { return mean[i]; }, [=](int64_t i, float x) { mean[i] = x; });
  }
}

}  // namespace
}  // namespace llm
