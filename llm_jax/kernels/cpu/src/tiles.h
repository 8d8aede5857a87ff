// AMX registers ("tiles"): their configuration, and a transposition.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace llm {
namespace {

// The size of a register: up to 16 rows of up to 64 bytes.
struct Shape {
  int rows, bytes;
};

inline void configure(const Shape (&shapes)[8]) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t columns[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) config.columns[t] = shapes[t].bytes, config.rows[t] = shapes[t].rows;
  asm volatile("" ::: "memory");  // gcc assumes that the instruction reads only the first eight bytes
  _tile_loadconfig(&config);
}

// 16 × 16 words of 4 bytes; `stride` counts the words from one row to the next.
inline void transpose(const uint32_t* from, int64_t stride, uint32_t* to) {
  __m512i x[16], y[16];
  for (int i = 0; i < 16; ++i) x[i] = _mm512_loadu_si512(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + 2 + j]);
      x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + 2 + j]);
    }
  }
  for (int i = 0; i < 4; ++i) {  // x[4k + i] holds columns i, i + 4, i + 8, i + 12 of rows 4k … 4k + 3
    const __m512i a = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xee);
    _mm512_storeu_si512(to + 16 * i, _mm512_shuffle_i32x4(a, c, 0x88));
    _mm512_storeu_si512(to + 16 * (i + 4), _mm512_shuffle_i32x4(a, c, 0xdd));
    _mm512_storeu_si512(to + 16 * (i + 8), _mm512_shuffle_i32x4(b, d, 0x88));
    _mm512_storeu_si512(to + 16 * (i + 12), _mm512_shuffle_i32x4(b, d, 0xdd));
  }
}

}  // namespace
}  // namespace llm
