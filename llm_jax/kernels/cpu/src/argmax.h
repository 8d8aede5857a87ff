// The largest of many numbers, in one pass, by the compiler's vectors; every level includes this file.
#pragma once

#include "rows.h"

namespace llm {
namespace {

typedef float Eight __attribute__((vector_size(32)));
typedef int32_t EightFlags __attribute__((vector_size(32)));

// The largest of `count` numbers and the first index that has it, 0 where all are -inf.
inline Best best_of(const float* x, int64_t count) {
  constexpr int kWidth = 8, kSums = 4;  // four comparisons at a time, which do not wait for one another
  constexpr int64_t kBlock = 256;
  const auto eight = [x](int64_t i) {
    Eight y;
    std::memcpy(&y, x + i, sizeof y);
    return y;
  };
  int64_t best = 0, i = 0;  // the start of the block with the largest so far
  float value = -INFINITY;
  EightFlags wrong = {};
  for (; i + kBlock <= count; i += kBlock) {
    Eight lane[kSums];
    for (int j = 0; j < kSums; ++j) lane[j] = eight(i + j * kWidth), wrong |= EightFlags(lane[j] != lane[j]);
#pragma GCC unroll 8
    for (int64_t k = kSums * kWidth; k < kBlock; k += kSums * kWidth)
#pragma GCC unroll 4
      for (int j = 0; j < kSums; ++j) {
        const Eight y = eight(i + k + j * kWidth);
        lane[j] = y > lane[j] ? y : lane[j], wrong |= EightFlags(y != y);
      }
    for (int j = 1; j < kSums; ++j) lane[0] = lane[j] > lane[0] ? lane[j] : lane[0];
    float largest = -INFINITY;
    for (int j = 0; j < kWidth; ++j) largest = lane[0][j] > largest ? lane[0][j] : largest;
    if (largest > value) value = largest, best = i;
  }
  bool all_numbers = true;
  for (int j = 0; j < kWidth; ++j) all_numbers &= wrong[j] == 0;
  for (; i < count; ++i) {
    if (x[i] > value) value = x[i], best = i;
    all_numbers &= x[i] == x[i];
  }
  while (best < count && x[best] != value) ++best;
  return {value, best < count ? best : 0, all_numbers};
}

}  // namespace
}  // namespace llm
