// The matrix product with blocks of few bits. x is quantised to int8, with a scale for each group. A group of weights is
// unpacked in registers once for up to kBlockRows rows; its integer sums are exact, and are added to a row's floats in
// the order of groups, for any number of rows, so that the result of a row does not depend on the other rows.
//
// What a level gives (Lanes): registers of kLanes integers and floats; `unpack`, the operands of a group; `dot`, which adds
// the products of operands and of rows to sums, of `rows` rows at once where there are so many; `largest` of the
// magnitudes of a group; `round`, a group as integers; and a few operations on floats.
#pragma once

#include "blocks.h"
#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kBlockRows = 64;         // rows whose sums stay in the L1 cache
constexpr int64_t kSumStride = 2 * kTile;  // of a row: sums of two panels, which are finished together
constexpr int64_t kFewRows = 4;            // up to so many wait for weights, which are fetched earlier

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

// Adds a group to the sums of `Rows` rows, one behind the other in a tile: the outputs of one register.
template <typename Lanes, Format f, int Rows>
[[gnu::always_inline]] inline void add_rows(const typename Lanes::Int (&w)[kOperands], const GroupScales<Lanes, f>& of_w,
                                            const int8_t* x, const RowGroup* of_row, float* sums) {
  using Int = typename Lanes::Int;
  using Float = typename Lanes::Float;
  constexpr int kScales = scales_of(f), kEach = kOperands / kScales, kOffset = Lanes::template offset<f>();
  Float sum[Rows];
#pragma GCC unroll 2
  for (int r = 0; r < Rows; ++r) sum[r] = Lanes::load(sums + r * kSumStride);
#pragma GCC unroll 2
  for (int part = 0; part < kScales; ++part) {
    Int dots[Rows];
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
      const RowGroup& row = of_row[r];
      const int32_t terms = kScales == 1 ? row.sum : part == 0 ? row.first_sum : row.sum - row.first_sum;
      dots[r] = kOffset == 0 ? Lanes::zero() : Lanes::integers(-kOffset * terms);
    }
    Lanes::template dot<value_bits(f), kEach>(dots, w, part * kEach, x + part * 16);
#pragma GCC unroll 2
    for (int r = 0; r < Rows; ++r) {
      const Float scale = Lanes::mul(of_w.scale[part], Lanes::broadcast(of_row[r].scale));
      sum[r] = Lanes::fma(Lanes::floats(dots[r]), scale, sum[r]);
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < Rows; ++r) {
    if constexpr (has_minimum(f))
      sum[r] = Lanes::fma(of_w.minimum, Lanes::broadcast(of_row[r].scaled_sum), sum[r]);
    Lanes::store(sums + r * kSumStride, sum[r]);
  }
}

// Adds a group to the sums of `rows` rows.
template <typename Lanes, Format f>
void add_group(const uint8_t* values, const uint8_t* scales, int64_t groups, int64_t group, int lane, const uint8_t* x,
               int64_t tile_bytes, int64_t rows, float* sums) {
  constexpr int kRows = Lanes::template rows<f>();
  typename Lanes::Int w[kOperands];
  Lanes::template unpack<f>(values + lane * 4, w);
  const GroupScales<Lanes, f> of_w(scales, groups, group, lane);
  sums += lane;
  for (int64_t m = 0; m < rows; m += kTile, x += tile_bytes) {
    const int8_t* row = reinterpret_cast<const int8_t*>(x);
    const RowGroup* of_row = reinterpret_cast<const RowGroup*>(x + kTile * kGroup);
    int64_t left = rows - m < kTile ? rows - m : kTile;
    for (; left >= kRows; left -= kRows, row += kRows * kGroup, of_row += kRows, sums += kRows * kSumStride)
      add_rows<Lanes, f, kRows>(w, of_w, row, of_row, sums);
    for (; left > 0; --left, row += kGroup, ++of_row, sums += kSumStride)
      add_rows<Lanes, f, 1>(w, of_w, row, of_row, sums);
  }
}

// A panel for up to kBlockRows rows. One at a time: what is read of two that lie side by side is not sequential.
template <typename Lanes, Format f>
void columns(const BlockProduct& p, const uint8_t* panel, const uint8_t* x, int64_t rows, float* sums) {
  const int64_t tile_bytes = p.groups * kRowGroupBytes, ahead = rows > kFewRows ? 4096 : 8192;
  for (int64_t g = 0; g < p.groups; g += kRecordGroups) {
    const int64_t groups = p.groups - g < kRecordGroups ? p.groups - g : kRecordGroups;
    for (int64_t i = 0; i < groups; ++i, x += kRowGroupBytes) {
      const uint8_t *values = panel + i * value_bytes(f), *scales = panel + groups * value_bytes(f);
      for (int64_t line = 0; line < record_bytes(f, 1); line += kCacheLine) __builtin_prefetch(values + ahead + line);
      for (int lane = 0; lane < kTile; lane += Lanes::kLanes)
        add_group<Lanes, f>(values, scales, groups, i, lane, x, tile_bytes, rows, sums);
    }
    panel += record_bytes(f, groups);
  }
}

template <typename Lanes>
void columns(Format f, const BlockProduct& p, const uint8_t* panel, const uint8_t* x, int64_t rows, float* sums) {
  switch (f) {
    case kQ4_0: return columns<Lanes, kQ4_0>(p, panel, x, rows, sums);
    case kQ4_1: return columns<Lanes, kQ4_1>(p, panel, x, rows, sums);
    case kQ5_0: return columns<Lanes, kQ5_0>(p, panel, x, rows, sums);
    case kQ5_1: return columns<Lanes, kQ5_1>(p, panel, x, rows, sums);
    case kQ8_0: return columns<Lanes, kQ8_0>(p, panel, x, rows, sums);
    case kQ4_K: return columns<Lanes, kQ4_K>(p, panel, x, rows, sums);
    case kQ5_K: return columns<Lanes, kQ5_K>(p, panel, x, rows, sums);
    case kQ6_K: return columns<Lanes, kQ6_K>(p, panel, x, rows, sums);
  }
}

struct BlockTraits {
  static constexpr int kOffset = 0;
};

// Computes the columns of `count` panels for all rows.
template <typename Lanes>
void multiply_blocks(const BlockProduct& p, int64_t panel, int64_t count) {
  alignas(64) float sums[kBlockRows * kSumStride];
  for (int64_t m = 0; m < p.base.M; m += kBlockRows) {
    const int64_t rows = p.base.M - m < kBlockRows ? p.base.M - m : kBlockRows;
    const uint8_t* x = p.base.rows + m / kTile * p.groups * kRowGroupBytes;
    for (int64_t q = panel; q < panel + count; q += 2) {
      const int64_t width = panel + count - q < 2 ? 1 : 2;
      std::memset(sums, 0, rows * kSumStride * sizeof(float));
      fetch_residual(p.base, m, rows, q, width);
      for (int64_t i = 0; i < width; ++i) {
        Format format;
        const uint8_t* tiles = tiles_of(p, q + i, format);
        columns<Lanes>(format, p, tiles, x, rows, sums + i * kTile);
      }
      finish<BlockTraits>(p.base, m, rows, q, width, sums, kSumStride);
    }
  }
}

}  // namespace
}  // namespace llm
