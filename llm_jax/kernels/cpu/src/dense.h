// Plain matrices as operands of a product, laid out at each call: weights that change from step to step are not packed
// beforehand. Plain loops that the compiler vectorises; every level includes this file.
#pragma once

#include <cstring>

#include "rows.h"

namespace llm {
namespace {

// Vectors first … first + 15 as rows of K float32; zero beyond the last.
inline void gather_rows(const Operand& a, int64_t first, float* rows) {
  const int64_t count = a.count - first < kTile ? a.count - first : kTile;
  if (!a.by_columns) {
    for (int64_t r = 0; r < count; ++r) load(a.values, a.first + (first + r) * a.stride, a.K, rows + r * a.K);
    std::memset(rows + count * a.K, 0, (kTile - count) * a.K * sizeof(float));
    return;
  }
  for (int64_t k = 0; k < a.K; k += kTile) {
    const int64_t depth = a.K - k < kTile ? a.K - k : kTile;
    alignas(64) float block[kTile][kTile];
    if (count < kTile) std::memset(block, 0, sizeof block);
    for (int64_t j = 0; j < depth; ++j) load(a.values, a.first + (k + j) * a.stride + first, count, block[j]);
    for (int64_t r = 0; r < kTile; ++r)
      for (int64_t j = 0; j < depth; ++j) rows[r * a.K + k + j] = block[j][r];
  }
}

inline uint32_t pair(float low, float high) { return to_bfloat16(low) | uint32_t(to_bfloat16(high)) << 16; }

// Vectors first … first + 15 as the panel of tiles that the kernels multiply with; zero beyond the last, and beyond K.
inline void gather_panel(const Operand& b, DType dtype, int64_t first, uint8_t* panel) {
  const int64_t count = b.count - first < kTile ? b.count - first : kTile;
  const int64_t chunk = dtype == kFloat32 ? kTile : 2 * kTile;
  for (int64_t k = 0; k < b.K; k += chunk, panel += kTileBytes) {
    const int64_t depth = b.K - k < chunk ? b.K - k : chunk;
    const bool whole = count == kTile && depth == chunk;
    uint32_t* tile = reinterpret_cast<uint32_t*>(panel);
    if (b.by_columns) {
      alignas(64) float block[2 * kTile][kTile];
      if (!whole) std::memset(block, 0, sizeof block);
      for (int64_t j = 0; j < depth; ++j) load(b.values, b.first + (k + j) * b.stride + first, count, block[j]);
      if (dtype == kFloat32) {
        std::memcpy(tile, block, kTileBytes);
      } else {
        for (int64_t j = 0; j < kTile; ++j)
          for (int64_t r = 0; r < kTile; ++r) tile[j * kTile + r] = pair(block[2 * j][r], block[2 * j + 1][r]);
      }
      continue;
    }
    alignas(64) uint32_t words[kTile][kTile];
    if (!whole) std::memset(words, 0, sizeof words);
    for (int64_t r = 0; r < count; ++r) {
      alignas(64) float line[2 * kTile];
      if (!whole) std::memset(line, 0, sizeof line);
      load(b.values, b.first + (first + r) * b.stride + k, depth, line);
      if (dtype == kFloat32) {
        std::memcpy(words[r], line, sizeof words[r]);
      } else {
        for (int64_t j = 0; j < kTile; ++j) words[r][j] = pair(line[2 * j], line[2 * j + 1]);
      }
    }
    for (int64_t j = 0; j < kTile; ++j)
      for (int64_t r = 0; r < kTile; ++r) tile[j * kTile + r] = words[r][j];
  }
}

}  // namespace
}  // namespace llm
