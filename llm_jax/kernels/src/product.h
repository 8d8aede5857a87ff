// The product for vector registers. An output's terms are added one after another in the order of the contracted
// axis, whatever the number of rows: a row's result does not depend on the rows beside it.
//
// Weights come from memory once: a strip, P panels × kDepth chunks, stays in the nearest caches while all rows pass
// it, R at a time, and meanwhile the next strip is asked for. Left to itself the processor's prefetcher stops at every
// page, and with more than four rows it does not keep up.
#pragma once

#include <utility>

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kDepth = 16;     // chunks of a strip
constexpr int64_t kRowBlock = 64;  // rows whose sums are kept between strips

struct Strip {
  const uint8_t* weights;  // of the first panel
  const uint8_t* next;     // where the strip after it begins, null when it has been asked for
  int64_t panel_bytes, chunks;
  bool first;  // of its panels: sums begin at zero
};

// Adds R rows (within one tile) times P panels, with the sums in registers.
template <typename Dot, int R, int P>
void block(const uint8_t* x, const Strip& strip, uint8_t* sums) {
  typename Dot::Sum acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) acc[r][q] = strip.first ? Dot::zero() : Dot::load(sums + (r * P + q) * 64);
  for (int64_t c = 0; c < strip.chunks; ++c) {
    for (int j = 0; j < 16; ++j) {
      const int64_t group = c * 1024 + j * 64;
      const uint8_t* terms = x + c * kTile * Dot::kRowBytes + j * (Dot::kRowBytes / 16);
      typename Dot::Weights weights[P];
#pragma GCC unroll 4
      for (int q = 0; q < P; ++q) {
        weights[q] = Dot::weights(strip.weights + q * strip.panel_bytes + group);
        if (strip.next != nullptr) __builtin_prefetch(strip.next + q * strip.panel_bytes + group, 0, 2);
      }
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const auto term = Dot::term(terms + r * Dot::kRowBytes);
#pragma GCC unroll 4
        for (int q = 0; q < P; ++q) Dot::add(acc[r][q], weights[q], term);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) Dot::store(sums + (r * P + q) * 64, acc[r][q]);
}

// P panels for all rows.
template <typename Traits, typename Dot, int P, std::size_t... R>
void columns(const Product& p, int64_t panel, std::index_sequence<R...>) {
  using Run = void (*)(const uint8_t*, const Strip&, uint8_t*);
  static constexpr Run runs[] = {block<Dot, R + 1, P>...};
  constexpr int64_t kRows = sizeof...(R), kTileBytes = kTile * Dot::kRowBytes;
  alignas(64) uint8_t sums[kRowBlock * P * 64];
  const int64_t panel_bytes = p.chunks * 1024;
  const uint8_t* weights = p.weight + panel * panel_bytes;
  for (int64_t m = 0; m < p.M; m += kRowBlock) {
    const int64_t end = p.M - m < kRowBlock ? p.M : m + kRowBlock;
    for (int64_t c = 0; c < p.chunks; c += kDepth) {
      const bool is_last = c + kDepth >= p.chunks;
      const uint8_t* here = weights + c * 1024;
      const uint8_t* next = is_last ? weights + P * panel_bytes : here + kDepth * 1024;
      Strip strip{here, nullptr, panel_bytes, is_last ? p.chunks - c : kDepth, c == 0};
      for (int64_t r = m; r < end; r += kRows) {
        const int64_t rows = end - r < kRows ? end - r : kRows;
        const uint8_t* x = p.rows + (r / kTile * p.chunks + c) * kTileBytes + r % kTile * Dot::kRowBytes;
        if (r + rows == p.M) strip.next = next;
        runs[rows - 1](x, strip, sums + (r - m) * P * 64);
      }
    }
    finish<Traits>(p, m, end - m, panel, P, sums, P * kTile);
  }
}

template <typename Traits, typename Dot>
void multiply(const Product& p, int64_t panel, int64_t count) {
  using Few = std::make_index_sequence<Traits::kFewRows>;
  using Many = std::make_index_sequence<Traits::kManyRows>;
  if (p.M <= Traits::kFewRows)
    for (; count >= 4; panel += 4, count -= 4) columns<Traits, Dot, 4>(p, panel, Few{});
  // Never less than two while there are two: a gate and its partner are finished together.
  for (; count >= 2; panel += 2, count -= 2) columns<Traits, Dot, 2>(p, panel, Many{});
  if (count == 1) columns<Traits, Dot, 1>(p, panel, Many{});
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
