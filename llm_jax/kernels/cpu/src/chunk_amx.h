// A chunk of the cache as AMX operands: keys as they are stored, values packed in pairs of keys.
#pragma once

#include <immintrin.h>

#include "cache.h"

namespace llm {
namespace {

constexpr int64_t kTileDepth = 32;               // bfloat16 values of the contracted axis in one row of a tile
constexpr int64_t kParts = kChunk / kTileDepth;  // tiles along the keys of a chunk
constexpr int64_t kTileWords = kTile * kTile;    // words of 4 bytes in a tile

// Into the L2 cache: a chunk exceeds the outstanding misses of L1.
inline void prefetch_l2(const void* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kCacheLine)
    __builtin_prefetch(static_cast<const char*>(data) + i, 0, kPrefetchL2);
}

// A chunk with `count` keys, a multiple of kTileDepth. The values of keys beyond c.to are zero.
struct Packed {
  const uint16_t* keys;
  int64_t count;
  alignas(64) uint16_t copied[kChunk * kMaxHead];
  // Tiles of 16 pairs of keys × 16 dimensions; two tiles share 32 dimensions, in alternating groups of four.
  alignas(64) uint32_t values[kChunk / 2 * kMaxHead];

  // Also prefetches the values of the next chunk.
  void read(const Chunk<uint16_t>& c, int64_t H) {
    static const uint16_t zeros[kMaxHead] = {};
    count = (c.to + kTileDepth - 1) / kTileDepth * kTileDepth;
    keys = c.keys;
    if (count > c.capacity) {
      std::memcpy(copied, keys, c.to * H * sizeof(uint16_t));
      keys = copied;
    }
    for (int64_t s = 0; s < count; s += 2) {
      const uint16_t* low = s < c.to ? c.values + s * H : zeros;
      const uint16_t* high = s + 1 < c.to ? c.values + (s + 1) * H : zeros;
      if (c.next_values != nullptr) prefetch_l2(c.next_values + s * H, 2 * H * sizeof(uint16_t));
      uint32_t* to = values + s / kTileDepth * kTileWords + s % kTileDepth / 2 * kTile;
      for (int64_t h = 0; h < H; h += 32, to += 2 * kParts * kTileWords) {
        const __m512i x = _mm512_loadu_si512(low + h), y = _mm512_loadu_si512(high + h);
        _mm512_store_si512(to, _mm512_unpacklo_epi16(x, y));
        _mm512_store_si512(to + kParts * kTileWords, _mm512_unpackhi_epi16(x, y));
      }
    }
  }
};

// Restores the order of dimensions, which packing permutes, in one output vector.
inline void unpermute(int64_t H, float* out) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (int64_t h = 0; h < H; h += 32) {
    const __m512 low = _mm512_load_ps(out + h), high = _mm512_load_ps(out + h + 16);
    _mm512_store_ps(out + h, _mm512_permutex2var_ps(low, first, high));
    _mm512_store_ps(out + h + 16, _mm512_permutex2var_ps(low, second, high));
  }
}

}  // namespace
}  // namespace llm
