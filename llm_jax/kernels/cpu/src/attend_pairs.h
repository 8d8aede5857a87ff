// Attention over bfloat16 vectors of a multiple of 32 values, by AVX-512's products of pairs: as attend.h, but queries and
// weights are rounded to bfloat16 too, as with AMX, and nothing is widened.
#pragma once

#include "attend.h"
#include "avx512_lanes.h"

namespace llm {
namespace {

struct PairProducts {
  using Vec = Lanes::Vec;
  using Chunk = llm::Chunk<uint16_t>;
  using Key = uint16_t;
  using Element = uint16_t;
  using Pairs = __m512bh;
  static constexpr int kBlock = Lanes::kQueries, kSums = Lanes::kSums, kVecs = 2, kKeys = 4;
  static constexpr int kPairs = 32;  // values of a register

  static Pairs load(const void* x) { return Pairs(_mm512_loadu_si512(x)); }
  static Pairs rounded(const float* x) { return _mm512_cvtne2ps_pbh(Lanes::load(x + 16), Lanes::load(x)); }

  static void round(const float* x, int64_t H, uint16_t* q) {
    for (int64_t h = 0; h < H; h += kPairs) _mm512_storeu_si512(q + h, __m512i(rounded(x + h)));
  }

  // Rounds the weights of a chunk in place: those of keys s and s + 1 are where weight s / 2 was.
  static void round(float* weight) {
    for (int s = 0; s < kChunk; s += kPairs) _mm512_storeu_si512(weight + s / 2, __m512i(rounded(weight + s)));
  }

  // score[r][s] = q[r] · k[s], as FloatProducts.
  template <int Rows>
  static void dots(const uint16_t* q, const Chunk& c, int64_t H, Ahead& ahead, int64_t lines, float* score) {
    const int64_t each = lines / ((c.to - c.from) / kKeys + 1) + 1;
    for (int64_t s = c.from / kKeys * kKeys; s < c.to; s += kKeys) {
      Vec acc[Rows][kKeys];
      const uint16_t* key[kKeys];
#pragma GCC unroll 4
      for (int i = 0; i < kKeys; ++i) {
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) acc[r][i] = Lanes::zero();
        key[i] = c.keys + (s + i < c.to ? s + i : c.to - 1) * c.stride;
      }
      ahead.fetch(each);
      for (int64_t h = 0; h < H; h += kPairs) {
        Pairs x[Rows];
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) x[r] = load(q + r * H + h);
#pragma GCC unroll 4
        for (int i = 0; i < kKeys; ++i) {
          const Pairs k = load(key[i] + h);
#pragma GCC unroll 4
          for (int r = 0; r < Rows; ++r) acc[r][i] = _mm512_dpbf16_ps(acc[r][i], x[r], k);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r)
        Lanes::sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3], score + r * kChunk + s);
    }
  }

  // out[r] += Σ weight[r][s] · v[s] from dimension h on, `Vecs` vectors of 16 at a time, two keys at once.
  template <int Rows, int Vecs>
  static void accumulate(const float* weight, const Chunk& c, int64_t h, int64_t H, Ahead& ahead, int64_t lines,
                         float* out) {
    const __m512i first = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8,  //
                                           39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i last = _mm512_add_epi16(first, _mm512_set1_epi16(16));
    Vec acc[Rows][Vecs];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < Vecs; ++i) acc[r][i] = Lanes::load(out + r * H + h + 16 * i);
    const int64_t pairs = (c.to + 1) / 2, each = (lines + pairs - c.from / 2 - 1) / (pairs - c.from / 2);
    for (int64_t s = c.from / 2; s < pairs; ++s) {
      ahead.fetch(each);
      const uint16_t* even = c.values + 2 * s * c.stride + h;
      const bool is_whole = 2 * s + 1 < c.to;  // behind the last key there may be anything
#pragma GCC unroll 2
      for (int i = 0; i < Vecs; i += 2) {
        const __m512i x = _mm512_loadu_si512(even + 16 * i);
        const __m512i y = is_whole ? _mm512_loadu_si512(even + c.stride + 16 * i) : _mm512_setzero_si512();
        const Pairs low = Pairs(_mm512_permutex2var_epi16(x, first, y));
        const Pairs high = Pairs(_mm512_permutex2var_epi16(x, last, y));
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Pairs term = Pairs(_mm512_castps_si512(Lanes::broadcast(weight[r * kChunk + s])));
          acc[r][i] = _mm512_dpbf16_ps(acc[r][i], term, low);
          acc[r][i + 1] = _mm512_dpbf16_ps(acc[r][i + 1], term, high);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < Vecs; ++i) Lanes::store(out + r * H + h + 16 * i, acc[r][i]);
  }
};

}  // namespace
}  // namespace llm
