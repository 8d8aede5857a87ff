// The matrix product with blocks of few bits. x is quantised to int8, with a scale for each group. A group of weights is
// unpacked in registers once for up to kBlockRows rows; its integer sums are exact, and are added to a row's floats in
// the order of groups, for any number of rows, so that the result of a row does not depend on the other rows.
//
// What a level gives (Lanes): registers of kLanes integers and floats; `unpack`, the operands of a group; `dot`, which adds
// the products of operands and of rows to sums, of `rows` rows at once where there are so many; `largest` of the
// magnitudes of a group; `round`, a group as integers; and a few operations on floats. kPanels are multiplied together
// where there are many rows.
#pragma once

#include "blocks.h"
#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kBlockRows = 64;        // rows whose sums stay in the L1 cache
constexpr int64_t kFewRows = 4;           // up to so many, one panel at a time is read faster than two

// A group as integers: the sum of the first 16 and of all, of their squares, and of the products with what they were.
struct Rounded {
  int32_t first_sum, sum, squares;
  float product;
};

// Quantises 16 rows of x.
template <typename Lanes>
void prepare_blocks(const BlockProduct& product, int64_t tile) {
  const Product& p = product.base;
  const int64_t padded = product.groups * kGroup;
  alignas(64) float stack[kStackFloats];
  float* x = padded <= kStackFloats ? stack : new float[padded];
  for (int64_t r = 0; r < kTile && tile * kTile + r < p.M; ++r) {
    load(p.x, (tile * kTile + r) * p.I, p.I, x);
    normalise(p, x);
    std::memset(x + p.I, 0, (padded - p.I) * sizeof(float));
    uint8_t* out = p.rows + tile * product.groups * kRowGroupBytes;
    for (int64_t g = 0; g < product.groups; ++g, out += kRowGroupBytes) {
      const float* from = x + g * kGroup;
      const float largest = Lanes::largest(from), inverse = largest > 0.0f ? kInt8Max / largest : 0.0f;
      RowGroup& group = reinterpret_cast<RowGroup*>(out + kTile * kGroup)[r];
      const Rounded rounded = Lanes::round(from, inverse, reinterpret_cast<int8_t*>(out) + r * kGroup);
      group.first_sum = rounded.first_sum, group.sum = rounded.sum;
      // The scale with the least squared error for these integers: it takes off what of the error lies along them.
      group.scale = rounded.squares > 0 ? rounded.product / float(rounded.squares) : 0.0f;
      group.scaled_sum = group.scale * float(group.sum);
    }
  }
  if (x != stack) delete[] x;
}

// The scales, and minimums, of a group's outputs from `lane` on.
template <typename Lanes, Format f>
struct GroupScales {
  using Float = typename Lanes::Float;
  Float scale[scales_of(f)], minimum;

  GroupScales(const uint8_t* scales, int64_t groups, int64_t group, int lane) {
    constexpr int kinds = has_minimum(f) ? 2 : 1;
    if constexpr (has_factor(f)) {
      const uint8_t* integers = scales + kinds * kHalves + group * kinds * scales_of(f) * 16 + lane;
      const Float factor = Lanes::halves(scales + lane * 2);
      for (int i = 0; i < scales_of(f); ++i)
        scale[i] = Lanes::mul(factor, f == kQ6_K ? Lanes::signed_bytes(integers + i * 16) : Lanes::bytes(integers));
      if constexpr (has_minimum(f))
        minimum = Lanes::mul(Lanes::halves(scales + kHalves + lane * 2), Lanes::bytes(integers + 16));
    } else {
      const uint8_t* halves = scales + group * kinds * kHalves + lane * 2;
      scale[0] = Lanes::halves(halves);
      if constexpr (has_minimum(f)) minimum = Lanes::halves(halves + kHalves);
    }
  }
};

// Adds a group to the sums of `Rows` rows, one behind the other in a tile: of each of `Panels` panels, the outputs of
// one register.
template <typename Lanes, Format f, int Rows, int Panels>
[[gnu::always_inline]] inline void add_rows(const typename Lanes::Int (&w)[Panels][kOperands],
                                            const GroupScales<Lanes, f>& first, const GroupScales<Lanes, f>& last,
                                            const int8_t* x, const RowGroup* of_row, float* sums) {
  using Int = typename Lanes::Int;
  using Float = typename Lanes::Float;
  constexpr int kScales = scales_of(f), kEach = kOperands / kScales, kOffset = Lanes::template offset<f>();
  const auto each = [](auto use) {
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int q = 0; q < Panels; ++q) use(r, q, 2 * kTile * r + kTile * q);
  };
  Float sum[Rows][Panels];
  each([&](int r, int q, int at) { sum[r][q] = Lanes::load(sums + at); });
#pragma GCC unroll 2
  for (int part = 0; part < kScales; ++part) {
    Int dots[Rows][Panels];
    each([&](int r, int q, int) {
      const RowGroup& row = of_row[r];
      const int32_t terms = kScales == 1 ? row.sum : part == 0 ? row.first_sum : row.sum - row.first_sum;
      dots[r][q] = kOffset == 0 ? Lanes::zero() : Lanes::integers(-kOffset * terms);
    });
    Lanes::template dot<value_bits(f), kEach>(dots, w, part * kEach, x + part * 16);
    each([&](int r, int q, int) {
      const Float scale = Lanes::mul((q == 0 ? first : last).scale[part], Lanes::broadcast(of_row[r].scale));
      sum[r][q] = Lanes::fma(Lanes::floats(dots[r][q]), scale, sum[r][q]);
    });
  }
  each([&](int r, int q, int at) {
    if constexpr (has_minimum(f))
      sum[r][q] = Lanes::fma((q == 0 ? first : last).minimum, Lanes::broadcast(of_row[r].scaled_sum), sum[r][q]);
    Lanes::store(sums + at, sum[r][q]);
  });
}

// Adds a group to the sums of `rows` rows.
template <typename Lanes, Format f, int Panels>
void add_group(const uint8_t* const (&values)[Panels], const uint8_t* const (&scales)[Panels], int64_t groups,
               int64_t group, int lane, const uint8_t* x, int64_t tile_bytes, int64_t rows, float* sums) {
  constexpr int kRows = Lanes::template rows<f>();
  typename Lanes::Int w[Panels][kOperands];
  for (int q = 0; q < Panels; ++q) Lanes::template unpack<f>(values[q] + lane * 4, w[q]);
  const GroupScales<Lanes, f> first(scales[0], groups, group, lane), last(scales[Panels - 1], groups, group, lane);
  sums += lane;
  for (int64_t m = 0; m < rows; m += kTile, x += tile_bytes) {
    const int8_t* row = reinterpret_cast<const int8_t*>(x);
    const RowGroup* of_row = reinterpret_cast<const RowGroup*>(x + kTile * kGroup);
    int64_t left = rows - m < kTile ? rows - m : kTile;
    for (; left >= kRows; left -= kRows, row += kRows * kGroup, of_row += kRows, sums += kRows * 2 * kTile)
      add_rows<Lanes, f, kRows>(w, first, last, row, of_row, sums);
    for (; left > 0; --left, row += kGroup, ++of_row, sums += 2 * kTile)
      add_rows<Lanes, f, 1>(w, first, last, row, of_row, sums);
  }
}

// `Panels` panels in one format for up to kBlockRows rows: sums[row][panel of two][16].
template <typename Lanes, Format f, int Panels>
void columns(const BlockProduct& p, const uint8_t* const* panels, const uint8_t* x, int64_t rows, float* sums) {
  const int64_t tile_bytes = p.groups * kRowGroupBytes;
  int64_t at = 0;  // of a record in its panel
  for (int64_t g = 0; g < p.groups; g += kRecordGroups) {
    const int64_t groups = p.groups - g < kRecordGroups ? p.groups - g : kRecordGroups;
    for (int64_t i = 0; i < groups; ++i, x += kRowGroupBytes) {
      const uint8_t *values[Panels], *scales[Panels];
      for (int q = 0; q < Panels; ++q) {
        values[q] = panels[q] + at + i * value_bytes(f), scales[q] = panels[q] + at + groups * value_bytes(f);
        for (int64_t line = 0; line < record_bytes(f, 1); line += kCacheLine)
          Panels == 1 ? __builtin_prefetch(values[q] + 8192 + line)  // few rows leave the nearest cache to the weights
                      : __builtin_prefetch(values[q] + 4096 + line, 0, kPrefetchL2);
      }
      for (int lane = 0; lane < kTile; lane += Lanes::kLanes)
        add_group<Lanes, f, Panels>(values, scales, groups, i, lane, x, tile_bytes, rows, sums);
    }
    at += record_bytes(f, groups);
  }
}

template <typename Lanes, int Panels>
void columns(Format f, const BlockProduct& p, const uint8_t* const* panels, const uint8_t* x, int64_t rows, float* sums) {
  switch (f) {
    case kQ4_0: return columns<Lanes, kQ4_0, Panels>(p, panels, x, rows, sums);
    case kQ4_1: return columns<Lanes, kQ4_1, Panels>(p, panels, x, rows, sums);
    case kQ5_0: return columns<Lanes, kQ5_0, Panels>(p, panels, x, rows, sums);
    case kQ5_1: return columns<Lanes, kQ5_1, Panels>(p, panels, x, rows, sums);
    case kQ8_0: return columns<Lanes, kQ8_0, Panels>(p, panels, x, rows, sums);
    case kQ4_K: return columns<Lanes, kQ4_K, Panels>(p, panels, x, rows, sums);
    case kQ5_K: return columns<Lanes, kQ5_K, Panels>(p, panels, x, rows, sums);
    case kQ6_K: return columns<Lanes, kQ6_K, Panels>(p, panels, x, rows, sums);
  }
}

struct BlockTraits {
  static constexpr int kOffset = 0;
};

// Computes the columns of `count` panels for all rows.
template <typename Lanes>
void multiply_blocks(const BlockProduct& p, int64_t panel, int64_t count) {
  alignas(64) float sums[kBlockRows * 2 * kTile];
  for (int64_t m = 0; m < p.base.M; m += kBlockRows) {
    const int64_t rows = p.base.M - m < kBlockRows ? p.base.M - m : kBlockRows;
    const uint8_t* x = p.base.rows + m / kTile * p.groups * kRowGroupBytes;
    for (int64_t q = panel; q < panel + count; q += 2) {
      const int64_t width = panel + count - q < 2 ? 1 : 2;
      Format format[2];
      const uint8_t* panels[2];
      for (int64_t i = 0; i < width; ++i) panels[i] = tiles_of(p, q + i, format[i]);
      std::memset(sums, 0, rows * 2 * kTile * sizeof(float));
      fetch_residual(p.base, m, rows, q, width);
      if (Lanes::kPanels == 2 && rows > kFewRows && width == 2 && format[0] == format[1]) {
        columns<Lanes, Lanes::kPanels>(format[0], p, panels, x, rows, sums);
      } else {
        for (int64_t i = 0; i < width; ++i) columns<Lanes, 1>(format[i], p, panels + i, x, rows, sums + i * kTile);
      }
      finish<BlockTraits>(p.base, m, rows, q, width, sums, 2 * kTile);
    }
  }
}

}  // namespace
}  // namespace llm
