// Attention over bfloat16 vectors of a multiple of 32 values, by AVX-512's products of pairs: as attend.h, but queries and
// weights are rounded to bfloat16 too, as with AMX, and nothing is widened.
#pragma once

#include "attend.h"
#include "avx512_lanes.h"

namespace llm {
namespace {

struct PairProducts {
  using Vec = Lanes::Vec;
  using Partial = Vec;
  using Factor = __m512bh;
  using Key = uint16_t;
  using Element = uint16_t;
  using Chunk = llm::Chunk<Key>;
  static constexpr int kBlock = Lanes::kQueries, kSums = Lanes::kSums, kVecs = 2, kDepth = 32;

  static Partial zero() { return Lanes::zero(); }
  static Partial dot(Factor x, Factor y, Partial sum) { return _mm512_dpbf16_ps(sum, x, y); }
  static void sums(Vec a, Vec b, Vec c, Vec d, float* to) { Lanes::sums(a, b, c, d, to); }
  static Factor load(const Element* x) { return Factor(_mm512_loadu_si512(x)); }
  static Factor rounded(const float* x) { return _mm512_cvtne2ps_pbh(Lanes::load(x + 16), Lanes::load(x)); }

  static void round(const float* x, int64_t H, uint16_t* q) {
    for (int64_t h = 0; h < H; h += kDepth) _mm512_storeu_si512(q + h, __m512i(rounded(x + h)));
  }

  // Rounds the weights of a chunk in place: those of keys s and s + 1 are where weight s / 2 was.
  static void round(float* weight) {
    for (int s = 0; s < kChunk; s += kDepth) _mm512_storeu_si512(weight + s / 2, __m512i(rounded(weight + s)));
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
        const Factor low = Factor(_mm512_permutex2var_epi16(x, first, y));
        const Factor high = Factor(_mm512_permutex2var_epi16(x, last, y));
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          const Factor term = Factor(_mm512_castps_si512(Lanes::broadcast(weight[r * kChunk + s])));
          acc[r][i] = dot(term, low, acc[r][i]);
          acc[r][i + 1] = dot(term, high, acc[r][i + 1]);
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
