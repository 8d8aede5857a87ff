// A chunk of the cache as AMX tiles want it: keys as they lie, values in pairs.
#pragma once

#include <immintrin.h>

#include "cache.h"

namespace llm {
namespace {

constexpr int64_t kDeep = 32;               // bfloat16 values that a tile contracts
constexpr int64_t kParts = kChunk / kDeep;  // of a chunk
constexpr int64_t kWords = kTile * kTile;   // of 4 bytes, in a tile

// Into the second cache: the nearest cannot have so much on its way.
inline void ask_for(const void* data, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(data) + i, 0, 2);
}

// A chunk as tiles want it: `count` keys, a multiple of 32. Values of those beyond c.to are zero.
struct Packed {
  const uint16_t* keys;
  int64_t count;
  alignas(64) uint16_t copied[kChunk * kMaxHead];
  // Tiles of 16 pairs of keys × 16 dimensions; two tiles share 32 dimensions, four each in turn.
  alignas(64) uint32_t values[kChunk / 2 * kMaxHead];

  // The next chunk's values come nearer meanwhile.
  void read(const Chunk<uint16_t>& c, int64_t H) {
    static const uint16_t nothing[kMaxHead] = {};
    count = (c.to + kDeep - 1) / kDeep * kDeep;
    keys = c.keys;
    if (count > c.room) {
      std::memcpy(copied, keys, c.to * H * sizeof(uint16_t));
      keys = copied;
    }
    for (int64_t s = 0; s < count; s += 2) {
      const uint16_t* low = s < c.to ? c.values + s * H : nothing;
      const uint16_t* high = s + 1 < c.to ? c.values + (s + 1) * H : nothing;
      if (c.more) ask_for(c.values + (kChunk + s) * H, 2 * H * sizeof(uint16_t));
      uint32_t* to = values + s / kDeep * kWords + s % kDeep / 2 * kTile;
      for (int64_t h = 0; h < H; h += 32, to += 2 * kParts * kWords) {
        const __m512i x = _mm512_loadu_si512(low + h), y = _mm512_loadu_si512(high + h);
        _mm512_store_si512(to, _mm512_unpacklo_epi16(x, y));
        _mm512_store_si512(to + kParts * kWords, _mm512_unpackhi_epi16(x, y));
      }
    }
  }
};

// Undoes for a row what packing did to the order of dimensions.
inline void reorder(int64_t H, float* out) {
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
