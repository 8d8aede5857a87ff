// The product for vector registers. An output's terms are added one after another in the order of the contracted
// axis, whatever the number of rows: a row's result does not depend on the rows beside it.
#pragma once

#include <utility>

#include "rows.h"

namespace llm {
namespace {

// Adds R rows (at most 16, within one tile) times P panels and keeps the sums in registers.
template <typename Dot, int R, int P>
void block(const uint8_t* x, const uint8_t* w, int64_t panel_bytes, int64_t chunks, char* sums, int64_t row_bytes) {
  typename Dot::Sum acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) acc[r][q] = Dot::zero();
  for (int64_t c = 0; c < chunks; ++c) {
    for (int j = 0; j < 16; ++j) {
      const uint8_t* group = w + c * 1024 + j * 64;
      const uint8_t* terms = x + c * kTile * Dot::kRowBytes + j * (Dot::kRowBytes / 16);
#pragma GCC unroll 4
      for (int q = 0; q < P; ++q) {
        auto weights = Dot::weights(group + q * panel_bytes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) Dot::add(acc[r][q], weights, terms + r * Dot::kRowBytes);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) Dot::store(sums + r * row_bytes + q * 64, acc[r][q]);
}

// `Width` panels, P at a time, finished together.
template <typename Traits, typename Dot, int R, int P, int Width>
void rows_by_panels(const Product& p, int64_t m, int64_t panel) {
  alignas(64) char sums[R * Width * 64];
  const int64_t panel_bytes = p.chunks * 1024;
  const uint8_t* x = p.rows + (m / kTile) * p.chunks * kTile * Dot::kRowBytes + (m % kTile) * Dot::kRowBytes;
  for (int q = 0; q < Width; q += P)
    block<Dot, R, P>(x, p.weight + (panel + q) * panel_bytes, panel_bytes, p.chunks, sums + q * 64, Width * 64);
  finish<Traits>(p, m, R, panel, Width, sums, Width * kTile);
}

template <typename Traits, typename Dot, int R>
void rows_by_all(const Product& p, int64_t m, int64_t panel, int64_t count) {
  constexpr int P = Traits::template panels<R>(), Pair = P < 2 ? P : 2;
  if constexpr (P > 2)
    for (; count >= P; panel += P, count -= P) rows_by_panels<Traits, Dot, R, P, P>(p, m, panel);
  // Never less than two while there are two: a gate and its partner are finished together.
  for (; count >= 2; panel += 2, count -= 2) rows_by_panels<Traits, Dot, R, Pair, 2>(p, m, panel);
  if (count == 1) rows_by_panels<Traits, Dot, R, 1, 1>(p, m, panel);
}

template <typename Traits, typename Dot, std::size_t... R>
void rows_of(const Product& p, int64_t m, int64_t rows, int64_t panel, int64_t count, std::index_sequence<R...>) {
  using Run = void (*)(const Product&, int64_t, int64_t, int64_t);
  static constexpr Run runs[] = {rows_by_all<Traits, Dot, R + 1>...};
  runs[rows - 1](p, m, panel, count);
}

template <typename Traits, typename Dot>
void multiply(const Product& p, int64_t panel, int64_t count) {
  using AllRows = std::make_index_sequence<Traits::kMaxRows>;
  if (p.M <= Traits::kMaxRows) return rows_of<Traits, Dot>(p, 0, p.M, panel, count, AllRows{});
  // Few panels at a time, so that they stay in the nearest cache while all rows pass.
  constexpr int64_t kStep = 4;
  for (; count > 0; panel += kStep, count -= kStep) {
    for (int64_t m = 0; m < p.M; m += Traits::kRows) {
      const int64_t rows = p.M - m < Traits::kRows ? p.M - m : Traits::kRows;
      rows_of<Traits, Dot>(p, m, rows, panel, count < kStep ? count : kStep, AllRows{});
    }
  }
}

template <typename Traits>
void multiply_any(const Product& p, int64_t panel, int64_t count) {
  switch (p.kind) {
    case kFloat32: return multiply<Traits, typename Traits::Float32>(p, panel, count);
    case kBFloat16: return multiply<Traits, typename Traits::BFloat16>(p, panel, count);
    case kInt8: return multiply<Traits, typename Traits::Int8>(p, panel, count);
  }
}

}  // namespace
}  // namespace llm
