// Low-rank factors of several adapters: y = residual + B_s (A_s norm(x)), with the slot s of each row.
#pragma once

#include <vector>

#include "rows.h"

namespace llm {
namespace {

template <typename T>
inline float number(T x) {
  if constexpr (sizeof(T) == 2) return from_bfloat16(x);
  return x;
}

// `count` rows of one slot, `rows[0]` … . The sums of a row are the same, however many rows share the pass.
template <typename Lanes, typename Factor>
void low_rank_rows(const LowRank& f, const int32_t* rows, int64_t count) {
  const Product& p = f.base;
  const int64_t slot = f.slots[rows[0]], I = p.I, O = p.O, R = slot < 0 ? 0 : f.rank, whole = I / kTile * kTile;
  std::vector<float> memory(kSharedRows * (I + O + R));
  float *x = memory.data(), *y = x + kSharedRows * I, *hidden = y + kSharedRows * O;
  for (int64_t r = 0; r < count; ++r) {
    load(p.x, rows[r] * I, I, x + r * I);
    normalise(p, x + r * I);
    if (p.residual.data != nullptr) load(p.residual, rows[r] * O, O, y + r * O);
  }
  const Factor* a = static_cast<const Factor*>(f.a.data) + R * slot * I;
  for (int64_t q = 0; q < R; ++q, a += I) {
    typename Lanes::Partial sums[kSharedRows];
    for (auto& sum : sums) sum = Lanes::zero();
    for (int64_t i = 0; i < whole; i += kTile) {
      const typename Lanes::Vec terms = Lanes::load(a + i);
      for (int64_t r = 0; r < kSharedRows; ++r) sums[r] = Lanes::dot(terms, Lanes::load(x + r * I + i), sums[r]);
    }
    float* h = hidden + q * kSharedRows;
    Lanes::sums(sums[0], sums[1], sums[2], sums[3], h);
    for (int64_t i = whole; i < I; ++i)
      for (int64_t r = 0; r < kSharedRows; ++r) h[r] += number(a[i]) * x[r * I + i];
  }
  const Factor* b = static_cast<const Factor*>(f.b.data) + R * slot * O;
  for (int64_t o = 0; o + kTile <= O; o += kTile) {
    typename Lanes::Vec sums[kSharedRows];
    for (int64_t r = 0; r < kSharedRows; ++r) sums[r] = Lanes::load(y + r * O + o);
    for (int64_t q = 0; q < R; ++q) {
      const typename Lanes::Vec terms = Lanes::load(b + q * O + o);
      for (int64_t r = 0; r < kSharedRows; ++r)
        sums[r] = Lanes::fma(Lanes::broadcast(hidden[q * kSharedRows + r]), terms, sums[r]);
    }
    for (int64_t r = 0; r < kSharedRows; ++r) Lanes::store(y + r * O + o, sums[r]);
  }
  for (int64_t o = O / kTile * kTile; o < O; ++o)
    for (int64_t q = 0; q < R; ++q)
      for (int64_t r = 0; r < count; ++r) y[r * O + o] += hidden[q * kSharedRows + r] * number(b[q * O + o]);
  for (int64_t r = 0; r < count; ++r) store(y + r * O, O, p.y, rows[r] * O);
}

template <typename Lanes>
void low_rank(const LowRank& f, const int32_t* rows, int64_t count) {
  f.a.is_bfloat16 ? low_rank_rows<Lanes, uint16_t>(f, rows, count) : low_rank_rows<Lanes, float>(f, rows, count);
}

}  // namespace
}  // namespace llm
