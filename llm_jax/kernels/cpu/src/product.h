// The matrix product with vector registers. The terms of an output are added in the order of the contracted axis,
// for any number of rows, so that the result of a row does not depend on the other rows of a batch.
//
// A block of rows × panels has its sums in registers. A strip of panels stays in the L1 and L2 caches while all rows are
// multiplied with it, and meanwhile the next strip is prefetched in software, a share by each block: the hardware
// prefetcher stops at every page, and with more than four rows it does not keep up. Weights that are not multiplied as
// they are stored are widened in registers where a strip meets one or two blocks, else once per strip.
//
// What a level gives for a dtype (Dot): a register `Vec`; `kRowBytes` of a row of x in a tile; in how many `kParts` the
// products of a group of weights are added, in turn; `weights`, a part of a group as it is multiplied; `term`, four
// bytes of x in all lanes; and `add`.
#pragma once

#include <utility>

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kStripBytes = 16384;  // of a panel, and of all where they are widened: half of an L1 cache
constexpr int64_t kRowBlock = 64;       // rows whose sums are stored between strips: 16 KB with four panels
constexpr int kWords = 16;              // groups of a tile, and 4-byte words of one row of it

struct Strip {
  const uint8_t* weights;  // of the first panel
  int64_t panel_bytes, chunks;
  const uint8_t* next;  // what to prefetch: so many lines of each panel
  int64_t next_panel_bytes, lines;
  bool is_first;  // of its panels: sums begin at zero
};

// Adds rows (within one tile) times panels to sums, whose rows are `row_bytes` apart. `Wide`: the strip is widened.
template <typename Dot, int Rows, int Panels, bool Wide>
void block(const uint8_t* x, const Strip& strip, uint8_t* sums, int64_t row_bytes) {
  using Vec = typename Dot::Vec;
  constexpr int kVecs = kGroupBytes / sizeof(Vec), kParts = Dot::kParts;
  Vec acc[Rows][Panels][kVecs];
  const auto each = [](auto use) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int q = 0; q < Panels; ++q)
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) use(r, q, v);
  };
  const auto sum = [&](int r, int q, int v) { return sums + r * row_bytes + q * kGroupBytes + v * sizeof(Vec); };
  each([&](int r, int q, int v) { acc[r][q][v] = strip.is_first ? Dot::zero() : Dot::load(sum(r, q, v)); });
  const int64_t lines = (strip.lines + strip.chunks - 1) / strip.chunks;
  for (int64_t c = 0; c < strip.chunks; ++c) {
    for (int64_t line = lines * c; line < lines * (c + 1) && line < strip.lines; ++line)
      for (int q = 0; q < Panels; ++q)
        __builtin_prefetch(strip.next + q * strip.next_panel_bytes + line * kCacheLine, 0, kPrefetchL2);
    const uint8_t* weights = strip.weights + c * kTileBytes * (Wide ? kParts : 1);
    const uint8_t* terms = x + c * kTile * Dot::kRowBytes;
    for (int j = 0; j < kWords; ++j) {
      const auto group = [&](int q, int v, int part) {
        const uint8_t* from = weights + q * strip.panel_bytes + v * sizeof(Vec);
        return Wide ? Dot::load(from + (j * kParts + part) * kGroupBytes) : Dot::weights(from + j * kGroupBytes, part);
      };
      const auto term = [&](int r, int part) {
        return Dot::term(terms + r * Dot::kRowBytes + (j * kParts + part) * 4);
      };
      // Whichever stays in registers: the terms of few rows, or the weights of few panels.
      if constexpr (Rows < Panels * kVecs) {
        Vec x[Rows][kParts];
#pragma GCC unroll 16
        for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
          for (int part = 0; part < kParts; ++part) x[r][part] = term(r, part);
#pragma GCC unroll 4
        for (int q = 0; q < Panels; ++q)
#pragma GCC unroll 4
          for (int v = 0; v < kVecs; ++v)
#pragma GCC unroll 4
            for (int part = 0; part < kParts; ++part) {
              const Vec w = group(q, v, part);
#pragma GCC unroll 16
              for (int r = 0; r < Rows; ++r) acc[r][q][v] = Dot::add(acc[r][q][v], w, x[r][part]);
            }
      } else {
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part) {
          Vec w[Panels][kVecs];
#pragma GCC unroll 4
          for (int q = 0; q < Panels; ++q)
#pragma GCC unroll 4
            for (int v = 0; v < kVecs; ++v) w[q][v] = group(q, v, part);
#pragma GCC unroll 16
          for (int r = 0; r < Rows; ++r) {
            const Vec x = term(r, part);
#pragma GCC unroll 4
            for (int q = 0; q < Panels; ++q)
#pragma GCC unroll 4
              for (int v = 0; v < kVecs; ++v) acc[r][q][v] = Dot::add(acc[r][q][v], w[q][v], x);
          }
        }
      }
    }
  }
  each([&](int r, int q, int v) { Dot::store(sum(r, q, v), acc[r][q][v]); });
}

// Copies a strip of one panel in the form that is multiplied.
template <typename Dot>
void widen(const uint8_t* strip, int64_t chunks, uint8_t* to) {
  constexpr int kBytes = sizeof(typename Dot::Vec);
  for (int64_t group = 0; group < chunks * kTileBytes; group += kGroupBytes)
    for (int part = 0; part < Dot::kParts; ++part)
      for (int v = 0; v < kGroupBytes; v += kBytes)
        Dot::store(to + group * Dot::kParts + part * kGroupBytes + v, Dot::weights(strip + group + v, part));
}

// How many blocks of up to `most` rows the rows of a tile are divided into, about evenly.
constexpr int64_t blocks_of(int64_t rows, int64_t most) { return (rows + most - 1) / most; }

// `count` panels for all rows, `Panels` at a time; a block has up to sizeof...(Rows) rows.
template <typename Traits, typename Dot, int Panels, bool Wide, std::size_t... Rows>
void columns(const Product& p, int64_t panel, int64_t count, std::index_sequence<Rows...>) {
  using Block = void (*)(const uint8_t*, const Strip&, uint8_t*, int64_t);
  static constexpr Block blocks[] = {block<Dot, Rows + 1, Panels, Wide>...};  // by the number of rows - 1
  constexpr int64_t kRows = sizeof...(Rows), kRowTileBytes = kTile * Dot::kRowBytes;
  constexpr int64_t kWidePanel = kStripBytes / Panels;
  constexpr int64_t kChunks = (Wide ? kWidePanel / Dot::kParts : kStripBytes) / kTileBytes;  // of a strip
  alignas(64) uint8_t sums[kRowBlock * kPanelsAtOnce * kGroupBytes];
  alignas(64) uint8_t wide[Wide ? kStripBytes : 1];
  const int64_t panel_bytes = p.chunks * kTileBytes, row_bytes = count * kGroupBytes;
  const uint8_t* first = p.weight + panel * panel_bytes;
  for (int64_t m = 0; m < p.M; m += kRowBlock) {
    const int64_t rows = p.M - m < kRowBlock ? p.M - m : kRowBlock, last_tile = (rows - 1) / kTile;
    const int64_t total = last_tile * blocks_of(kTile, kRows) + blocks_of(rows - last_tile * kTile, kRows);
    for (int64_t c = 0; c < p.chunks; c += kChunks) {
      const int64_t chunks = p.chunks - c < kChunks ? p.chunks - c : kChunks, lines = chunks * kTileBytes / kCacheLine;
      for (int64_t q = 0; q < count; q += Panels) {
        const uint8_t* weights = first + q * panel_bytes + c * kTileBytes;
        const uint8_t* next = weights + Panels * panel_bytes;
        if (q + Panels == count)
          next = c + kChunks < p.chunks ? first + (c + kChunks) * kTileBytes : first + count * panel_bytes;
        Strip strip{weights, panel_bytes, chunks, next, panel_bytes, 0, c == 0};
        if constexpr (Wide) {
          for (int i = 0; i < Panels; ++i) widen<Dot>(weights + i * panel_bytes, chunks, wide + i * kWidePanel);
          strip.weights = wide, strip.panel_bytes = kWidePanel;
        }
        int64_t done = 0;
        for (int64_t tile = 0; tile <= last_tile; ++tile) {
          const int64_t height = tile < last_tile ? kTile : rows - tile * kTile, parts = blocks_of(height, kRows);
          const uint8_t* x = p.rows + ((m / kTile + tile) * p.chunks + c) * kRowTileBytes;
          for (int64_t part = 0; part < parts; ++part) {
            const int64_t from = height * part / parts, to = height * (part + 1) / parts;
            const int64_t line = lines * done++ / total;
            strip.next = next + line * kCacheLine, strip.lines = lines * done / total - line;
            blocks[to - from - 1](x + from * Dot::kRowBytes, strip,
                                  sums + (tile * kTile + from) * row_bytes + q * kGroupBytes, row_bytes);
          }
        }
      }
    }
    finish<Traits>(p, m, rows, panel, count, sums, count * kTile);
  }
}

template <typename Traits, typename Dot>
void multiply(const Product& p, int64_t panel, int64_t count) {
  const std::make_index_sequence<Traits::kRowsOfFour> few;
  const std::make_index_sequence<Traits::kRowsOfTwo> some;
  const std::make_index_sequence<Traits::kRowsOfOne> many;
  constexpr bool kWide = Dot::kParts > 1;
  if (count == 4 && p.M <= Traits::kRowsOfFour) return columns<Traits, Dot, 4, false>(p, panel, count, few);
  if (count % 2 == 0 && p.M <= Traits::kRowsOfTwo) return columns<Traits, Dot, 2, false>(p, panel, count, some);
  if (p.M <= 2 * Traits::kRowsOfOne) return columns<Traits, Dot, 1, false>(p, panel, count, many);
  if (Traits::kManyPanels == 2 && count % 2 == 0) return columns<Traits, Dot, 2, kWide>(p, panel, count, some);
  columns<Traits, Dot, 1, kWide>(p, panel, count, many);
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
