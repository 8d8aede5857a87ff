// The matrix product with vector registers. The terms of an output are added in the order of the contracted axis,
// for any number of rows, so that the result of a row does not depend on the other rows of a batch.
//
// Weights are read from memory once: a strip of `Panels` panels × kStripChunks chunks stays in the L1 and L2 caches
// while all rows are multiplied with it, `Rows` at a time, and meanwhile the next strip is prefetched in software. The
// hardware prefetcher stops at every page, and with more than four rows it does not keep up.
#pragma once

#include <utility>

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kStripChunks = 16;  // chunks of a strip; with 8 about as fast, with 32 slower (benchmarks/RESULTS.md)
constexpr int64_t kRowBlock = 64;     // rows whose sums are stored between strips: 16 KB with four panels

struct Strip {
  const uint8_t* weights;  // of the first panel
  const uint8_t* next;     // the next strip, null if it has been prefetched
  int64_t panel_bytes, chunks;
  bool is_first;  // of its panels: sums begin at zero
};

// Adds rows (within one tile) times panels, with the sums in registers.
template <typename Dot, int Rows, int Panels>
void block(const uint8_t* x, const Strip& strip, uint8_t* sums) {
  typename Dot::Sum acc[Rows][Panels];
  for (int r = 0; r < Rows; ++r)
    for (int q = 0; q < Panels; ++q)
      acc[r][q] = strip.is_first ? Dot::zero() : Dot::load(sums + (r * Panels + q) * kGroupBytes);
  for (int64_t c = 0; c < strip.chunks; ++c) {
    for (int j = 0; j < 16; ++j) {
      const int64_t group = c * kTileBytes + j * kGroupBytes;
      const uint8_t* terms = x + c * kTile * Dot::kRowBytes + j * (Dot::kRowBytes / 16);
      typename Dot::Weights weights[Panels];
#pragma GCC unroll 4
      for (int q = 0; q < Panels; ++q) {
        weights[q] = Dot::weights(strip.weights + q * strip.panel_bytes + group);
        if (strip.next != nullptr) __builtin_prefetch(strip.next + q * strip.panel_bytes + group, 0, kPrefetchL2);
      }
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const auto term = Dot::term(terms + r * Dot::kRowBytes);
#pragma GCC unroll 4
        for (int q = 0; q < Panels; ++q) Dot::add(acc[r][q], weights[q], term);
      }
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int q = 0; q < Panels; ++q) Dot::store(sums + (r * Panels + q) * kGroupBytes, acc[r][q]);
}

// Panels for all rows.
template <typename Traits, typename Dot, int Panels, std::size_t... Rows>
void columns(const Product& p, int64_t panel, std::index_sequence<Rows...>) {
  using Block = void (*)(const uint8_t*, const Strip&, uint8_t*);
  static constexpr Block blocks[] = {block<Dot, Rows + 1, Panels>...};  // by the number of rows - 1
  constexpr int64_t kRows = sizeof...(Rows), kRowTileBytes = kTile * Dot::kRowBytes;
  alignas(64) uint8_t sums[kRowBlock * Panels * kGroupBytes];
  const int64_t panel_bytes = p.chunks * kTileBytes;
  const uint8_t* weights = p.weight + panel * panel_bytes;
  for (int64_t m = 0; m < p.M; m += kRowBlock) {
    const int64_t end = p.M - m < kRowBlock ? p.M : m + kRowBlock;
    for (int64_t c = 0; c < p.chunks; c += kStripChunks) {
      const bool is_last = c + kStripChunks >= p.chunks;
      const uint8_t* current = weights + c * kTileBytes;
      const uint8_t* next = is_last ? weights + Panels * panel_bytes : current + kStripChunks * kTileBytes;
      Strip strip{current, nullptr, panel_bytes, is_last ? p.chunks - c : kStripChunks, c == 0};
      for (int64_t r = m; r < end; r += kRows) {
        const int64_t rows = end - r < kRows ? end - r : kRows;
        const uint8_t* x = p.rows + (r / kTile * p.chunks + c) * kRowTileBytes + r % kTile * Dot::kRowBytes;
        if (r + rows == p.M) strip.next = next;
        blocks[rows - 1](x, strip, sums + (r - m) * Panels * kGroupBytes);
      }
    }
    finish<Traits>(p, m, end - m, panel, Panels, sums, Panels * kTile);
  }
}

template <typename Traits, typename Dot>
void multiply(const Product& p, int64_t panel, int64_t count) {
  using Few = std::make_index_sequence<Traits::kFewRows>;
  using Many = std::make_index_sequence<Traits::kManyRows>;
  if (p.M <= Traits::kFewRows)
    for (; count >= kPanelsAtOnce; panel += kPanelsAtOnce, count -= kPanelsAtOnce)
      columns<Traits, Dot, kPanelsAtOnce>(p, panel, Few{});
  // Two at a time while there are two: a gate and its up panel are finished together.
  for (; count >= 2; panel += 2, count -= 2) columns<Traits, Dot, 2>(p, panel, Many{});
  if (count == 1) columns<Traits, Dot, 1>(p, panel, Many{});
}

template <typename Traits>
void multiply_any(const Product& p, int64_t panel, int64_t count) {
  switch (p.dtype) {
    case kFloat32: return multiply<Traits, typename Traits::Float32>(p, panel, count);
    case kBFloat16: return multiply<Traits, typename Traits::BFloat16>(p, panel, count);
    case kInt8: return multiply<Traits, typename Traits::Int8>(p, panel, count);
  }
}

}  // namespace
}  // namespace llm
