// Before and after the multiplication: rows of x are packed into tiles, and sums become y. Plain loops that the
// compiler vectorises; every level includes this file with its own Traits.
#pragma once

#include <cmath>
#include <cstring>

#include "activations.h"
#include "kernels.h"

namespace llm {
namespace {

constexpr float kInt8Max = 127.0f;  // int8 values are symmetric: -127 … 127
constexpr int64_t kStackFloats = 8192;  // longest row that needs no allocation: 32 KB
constexpr int kLanes = 16;  // partial sums, one per lane of the widest registers
constexpr int64_t kCacheLine = 64;
constexpr int64_t kMaxHead = 512;  // largest head size
constexpr float kLowest = -1e30f;  // below any score, and finite: the difference of two is 0, not NaN
constexpr int kPrefetchL2 = 2;  // locality argument of __builtin_prefetch: into the L2 cache

inline uint16_t to_bfloat16(float x) {
  uint32_t bits = bits_of(x);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;  // NaN must not round to infinity
}

inline float from_bfloat16(uint16_t x) { return float_of(uint32_t(x) << 16); }

// Copies a vector at a time. For few numbers a call takes longer than what it copies, and so do the string instructions
// that compilers put in its place; the empty statement keeps them from making one of the loop.
inline void copy(const float* from, int64_t count, float* to) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    std::memcpy(to + i, from + i, kLanes * sizeof(float));
    asm volatile("");
  }
  for (; i < count; ++i) to[i] = from[i];
}

inline void load(const Floats& from, int64_t start, int64_t count, float* to) {
  if (from.is_bfloat16) {
    const uint16_t* source = static_cast<const uint16_t*>(from.data) + start;
    for (int64_t i = 0; i < count; ++i) to[i] = from_bfloat16(source[i]);
  } else {
    copy(static_cast<const float*>(from.data) + start, count, to);
  }
}

inline void store(const float* from, int64_t count, const Floats& to, int64_t start) {
  if (to.is_bfloat16) {
    uint16_t* target = static_cast<uint16_t*>(to.data) + start;
    for (int64_t i = 0; i < count; ++i) target[i] = to_bfloat16(from[i]);
  } else {
    copy(from, count, static_cast<float*>(to.data) + start);
  }
}

// A sum in kLanes fixed lanes, so that every level and every batch adds in the same order.
template <typename Term>
inline float sum(int64_t count, Term term) {
  float lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] += term(i + j);
  for (int j = 0; i < count; ++i, ++j) lane[j] += term(i);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  return lane[0];
}

// The largest term, at least `floor`; count is a multiple of kLanes.
template <typename Term>
inline float largest(int64_t count, float floor, Term term) {
  float lane[kLanes];
  for (int j = 0; j < kLanes; ++j) lane[j] = floor;
  for (int64_t i = 0; i + kLanes <= count; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lane[j] = term(i + j) > lane[j] ? term(i + j) : lane[j];
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lane[j] = lane[j + width] > lane[j] ? lane[j + width] : lane[j];
  return lane[0];
}

// Rotary positions, in place: the first 2 · half dimensions of a vector, by the angles of its token, `direction` (1 or
// -1) times.
inline void rotate(const float* cosine, const float* sine, int64_t half, float direction, float* x) {
  for (int64_t i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half], turn = direction * sine[i];
    x[i] = first * cosine[i] - second * turn;
    x[i + half] = second * cosine[i] + first * turn;
  }
}

inline void normalise(const Product& p, float* x) {
  if (p.norm == kNoNorm) return;
  const int64_t I = p.I;
  float mean = p.norm == kLayer ? sum(I, [&](int64_t i) { return x[i]; }) / I : 0.0f;
  float variance = sum(I, [&](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / I;
  float inverse = 1.0f / std::sqrt(variance + p.epsilon);
  for (int64_t i = 0; i < I; ++i) x[i] = (x[i] - mean) * inverse * p.norm_weight[i];
  if (p.norm_bias != nullptr)
    for (int64_t i = 0; i < I; ++i) x[i] += p.norm_bias[i];
}

// Copies a row of float32 to the tiles, `Bytes` to each.
template <int Bytes>
void scatter(const float* x, int64_t chunks, uint8_t* tiles) {
  for (int64_t c = 0; c < chunks; ++c) std::memcpy(tiles + c * kTile * Bytes, x + c * (Bytes / 4), Bytes);
}

// Packs 16 rows. In the tile of a chunk, each row has 64 bytes, or 128 where bfloat16 is stored widened to float32 or
// int8 to int16.
template <typename Traits>
void prepare(const Product& p, int64_t tile) {
  const int64_t group = 4 / (p.dtype == kFloat32 ? 4 : p.dtype == kBFloat16 ? 2 : 1);  // values per 4 bytes of weight
  const int64_t chunk = group * kTile;                                                // values per chunk
  const bool widen = (p.dtype == kBFloat16 && !Traits::kBFloat16Rows) || (p.dtype == kInt8 && Traits::kInt16Rows);
  const int64_t row_bytes = widen ? 128 : 64;
  const int64_t padded = p.chunks * chunk;
  alignas(64) float stack[kStackFloats];
  float* x = padded <= kStackFloats ? stack : new float[padded];
  for (int64_t r = 0; r < kTile; ++r) {
    uint8_t* out = p.rows + tile * p.chunks * kTile * row_bytes + r * row_bytes;
    const int64_t m = tile * kTile + r;
    if (m >= p.M) {
      if (p.M <= kTile) break;  // a single tile is not read beyond its rows
      for (int64_t c = 0; c < p.chunks; ++c) std::memset(out + c * kTile * row_bytes, 0, row_bytes);
      continue;
    }
    load(p.x, m * p.I, p.I, x);
    normalise(p, x);
    std::memset(x + p.I, 0, (padded - p.I) * sizeof(float));
    if (p.dtype == kInt8) {
      uint32_t largest = 0;  // |x| is ordered as its bits
      for (int64_t i = 0; i < padded; ++i) {
        uint32_t magnitude = bits_of(x[i]) & 0x7fffffffu;
        largest = magnitude > largest ? magnitude : largest;
      }
      const float amax = float_of(largest), inverse = amax > 0.0f ? kInt8Max / amax : 0.0f;
      p.row_scale[m] = amax / kInt8Max;
      for (int64_t c = 0; c < p.chunks; ++c) {
        const float* from = x + c * 64;
        uint8_t* to = out + c * kTile * row_bytes;
        if constexpr (Traits::kInt16Rows) {  // of four values the even, then the odd: as `weights` widens theirs
          int16_t* pairs = reinterpret_cast<int16_t*>(to);
          for (int i = 0; i < 64; i += 4)
            for (int j = 0; j < 4; ++j)
              pairs[i + j] = int16_t(bits_of(from[i + (j % 2) * 2 + j / 2] * inverse + kRounder));
        } else {
          for (int i = 0; i < 64; ++i) to[i] = uint8_t(bits_of(from[i] * inverse + kRounder) + Traits::kOffset);
        }
      }
    } else if (p.dtype == kBFloat16 && !widen) {
      for (int64_t c = 0; c < p.chunks; ++c) {
        uint16_t* to = reinterpret_cast<uint16_t*>(out + c * kTile * 64);
        for (int i = 0; i < 32; ++i) to[i] = to_bfloat16(x[c * 32 + i]);
      }
    } else {
      if (widen)
        for (int64_t i = 0; i < p.I; ++i) x[i] = from_bfloat16(to_bfloat16(x[i]));
      widen ? scatter<128>(x, p.chunks, out) : scatter<64>(x, p.chunks, out);
    }
  }
  if (x != stack) delete[] x;
}

// The part of a sum that comes from Traits::kOffset, which is added to rows to make them unsigned.
template <typename Traits>
int32_t offset(const Product& p, int64_t row) {
  if constexpr (Traits::kOffset != 0) return Traits::kOffset * p.column_sum[row];
  return 0;
}

// Has the residual of rows from m on and panels from `panel` on fetched while these are multiplied: its rows are far apart.
inline void fetch_residual(const Product& p, int64_t m, int64_t rows, int64_t panel, int64_t panels) {
  if (p.residual.data == nullptr) return;
  const int64_t size = p.residual.is_bfloat16 ? 2 : 4, width = panels * kTile * size;
  const char* at = static_cast<const char*>(p.residual.data) + (m * p.O + panel * kTile) * size;
  for (int64_t r = 0; r < rows; ++r, at += p.O * size)
    for (int64_t line = 0; line < width; line += kCacheLine) __builtin_prefetch(at + line);
}

// Turns the sums of rows from m on and panels from `panel` on (`sums[r][panel][column]`, float32 or int32) into y.
template <typename Traits>
void finish(const Product& p, int64_t m, int64_t rows, int64_t panel, int64_t panels, const void* sums,
            int64_t row_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    alignas(64) float y[kPanelsAtOnce * kTile];
    const int64_t width = panels * kTile, first = panel * kTile;
    if (p.dtype == kInt8) {
      const int32_t* acc = static_cast<const int32_t*>(sums) + r * row_stride;
      const float row_scale = p.row_scale[m + r];
      for (int64_t i = 0; i < width; ++i)
        y[i] = float(acc[i] - offset<Traits>(p, first + i)) * (row_scale * p.scale[first + i]);
    } else {
      copy(static_cast<const float*>(sums) + r * row_stride, width, y);
    }
    if (p.bias != nullptr)
      for (int64_t i = 0; i < width; ++i) y[i] += p.bias[first + i];
    int64_t o = first, count = width;
    if (p.gated) {
      for (int64_t i = 0; i < width; i += 2 * kTile) {
        activate(p.activation, y + i, kTile);
        for (int j = 0; j < kTile; ++j) y[i / 2 + j] = y[i + j] * y[i + kTile + j];
      }
      o /= 2, count /= 2;
    } else {
      activate(p.activation, y, width);
    }
    count = o + count > p.O ? p.O - o : count;
    const int64_t at = (m + r) * p.O + o;
    if (p.residual.data != nullptr) {
      alignas(64) float residual[kPanelsAtOnce * kTile];
      load(p.residual, at, count, residual);
      for (int64_t i = 0; i < count; ++i) y[i] += residual[i];
    }
    store(y, count, p.y, at);
  }
}

}  // namespace
}  // namespace llm
