// Attention with AMX tiles, over bfloat16 vectors of a multiple of 32 values: the online softmax of attend.h, with the
// same arithmetic for any number of queries.
//
// Scores are keys · queriesᵀ: keys are read from the cache unpacked, and queries are packed once. The output is
// weights · values, both bfloat16; a chunk's values are packed once for all queries.
#pragma once

#include "chunk_amx.h"
#include "tiles.h"

namespace llm {
namespace {

using Vec = __m512;

// 2^x within 3e-6: exactly 1 at 0, and 0 at -inf. The polynomial is fitted to 2^r for 0 <= r < 1.
inline Vec power_of_two(Vec x) {
  const Vec r = _mm512_reduce_ps(x, 9);  // x - floor(x), 0 at -inf
  Vec p = _mm512_set1_ps(0.013426684f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05224247f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2412802f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6930448f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

inline __m512i to_bfloat16(Vec low, Vec high) { return __m512i(_mm512_cvtne2ps_pbh(high, low)); }

// A column of `Width` queries: sixteen, one in each lane of a vector of scores, or one, whose keys fill the lanes.
template <int Width>
struct Column {
  // The online softmax (`max` is an exponent of 2), and the positions that the queries attend to, ascending.
  alignas(64) float max[16], sum[16], position[16], slope[16], begin[16], end[16];
  alignas(64) uint32_t q[Width * kMaxHead / 2];  // tiles of 16 pairs of dimensions × Width
  alignas(64) float out[Width * kMaxHead];

  // Registers 0-1: scores, 2: queries, 3: output, 4-5: weights, 6-7: keys or values.
  static void configure() {
    const Shape queries{16, 4 * Width}, rows{Width, 64}, all{16, 64};
    llm::configure({queries, queries, queries, rows, rows, rows, all, all});
  }

  // Loads `count` queries from `first` on. Unused lanes repeat the last.
  void start(const Attention& a, int64_t seq, int64_t kv, int64_t first, int64_t count, Query* query) {
    alignas(64) float x[kMaxHead];
    alignas(64) uint16_t rounded[Width * kMaxHead];
    std::memset(rounded + count * a.H, 0, (Width - count) * a.H * sizeof(uint16_t));
    for (int64_t r = 0; r < count; ++r) {
      query[r] = query_of(a, seq, kv, first + r, x);
      for (int64_t h = 0; h < a.H; h += 32)
        _mm512_store_si512(rounded + r * a.H + h, to_bfloat16(_mm512_load_ps(x + h), _mm512_load_ps(x + h + 16)));
    }
    for (int64_t i = 0; i < 16; ++i) {
      const Query& one = query[i < count ? i : count - 1];
      max[i] = kLowest, sum[i] = 0.0f;
      position[i] = float(one.position), slope[i] = a.slopes == nullptr ? 0.0f : a.slopes[one.head];
      begin[i] = float(one.begin), end[i] = float(one.end);
    }
    if constexpr (Width == 1) {
      std::memcpy(q, rounded, a.H * sizeof(uint16_t));
    } else {
      for (int64_t h = 0; h < a.H; h += kTileDepth)
        transpose(reinterpret_cast<uint32_t*>(rounded + h), a.H / 2, q + h / kTileDepth * kTileWords);
    }
    std::memset(out, 0, Width * a.H * sizeof(float));
  }

  // score[s][query] = k[s] · q[query]. Also prefetches the next chunk's keys, if any.
  void dots(const Packed& p, int64_t H, const uint16_t* next, float* score) const {
    for (int64_t s = 0; s < p.count; s += 32) {
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t h = 0; h < H; h += kTileDepth) {
        if (next != nullptr) prefetch_l2(next + s * H + h * 32, 32 * kTileDepth * sizeof(uint16_t));
        _tile_loadd(2, q + h / 2 * Width, 4 * Width);
        _tile_loadd(6, p.keys + s * H + h, H * sizeof(uint16_t));
        _tile_dpbf16ps(0, 6, 2);
        _tile_loadd(7, p.keys + (s + 16) * H + h, H * sizeof(uint16_t));
        _tile_dpbf16ps(1, 7, 2);
      }
      _tile_stored(0, score + s * Width, 4 * Width);
      _tile_stored(1, score + (s + 16) * Width, 4 * Width);
    }
  }

  // The keys in the lanes of vector v of a chunk's scores.
  static Vec keys_of(int64_t v) {
    if constexpr (Width == 16) return _mm512_set1_ps(float(v));
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + _mm512_set1_ps(float(16 * v));
  }

  // Scale, soft cap and ALiBi.
  void transform(const Attention& a, int64_t start, int64_t vectors, float* score) const {
    const Vec distance = _mm512_load_ps(position) - _mm512_set1_ps(float(start));
    for (int64_t v = 0; v < vectors; ++v, score += 16) {
      for (int i = 0; i < 16; ++i) score[i] *= a.scale;
      if (a.softcap > 0.0f)
        for (int i = 0; i < 16; ++i) score[i] = a.softcap * hyperbolic_tangent(score[i] / a.softcap);
      if (a.slopes != nullptr)
        _mm512_store_ps(score, _mm512_fnmadd_ps(_mm512_load_ps(slope), distance - keys_of(v), _mm512_load_ps(score)));
    }
  }

  // -inf outside the positions that a query attends to.
  void mask(int64_t start, int64_t vectors, float* score) const {
    const Vec from = _mm512_load_ps(begin) - _mm512_set1_ps(float(start));
    const Vec to = _mm512_load_ps(end) - _mm512_set1_ps(float(start));
    for (int64_t v = 0; v < vectors; ++v, score += 16) {
      const Vec key = keys_of(v), masked = _mm512_set1_ps(-__builtin_inff());
      const __mmask16 is_attended = _mm512_cmp_ps_mask(key, from, _CMP_GE_OQ) & _mm512_cmp_ps_mask(key, to, _CMP_LT_OQ);
      _mm512_store_ps(score, _mm512_mask_blend_ps(is_attended, masked, _mm512_load_ps(score)));
    }
  }

  // Turns scores into tiles of weights, [queries][keys], and rescales the output so far.
  void update_softmax(const Attention& a, int64_t start, int64_t count, float* score, uint32_t* weight) {
    const int64_t vectors = count * Width / 16;
    const bool plain = a.softcap == 0.0f && a.slopes == nullptr;
    if (!plain) transform(a, start, vectors, score);
    if (begin[15] > float(start) || end[0] < float(start + count)) mask(start, vectors, score);

    const Vec factor = _mm512_set1_ps(kLog2E * (plain ? a.scale : 1.0f)), before = _mm512_load_ps(max);
    Vec top = _mm512_load_ps(score);
    for (int64_t v = 1; v < vectors; ++v) top = _mm512_max_ps(top, _mm512_load_ps(score + 16 * v));
    if constexpr (Width == 1) top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    top = _mm512_max_ps(before, top * factor);

    constexpr int kStep = Width == 1 ? 2 : Width;
    const __m512i by_query = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                              23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    alignas(64) uint32_t pairs[kChunk / 2 * Width];
    Vec sums[Width] = {};  // of keys that are equal modulo 16
    for (int64_t v = 0; v < vectors; v += kStep) {
#pragma GCC unroll 8
      for (int i = 0; i < kStep; i += 2) {
        const float* x = score + 16 * (v + i);
        const Vec first = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x), factor, top));
        const Vec second = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x + 16), factor, top));
        sums[i % Width] += first, sums[(i + 1) % Width] += second;
        const __m512i both = to_bfloat16(first, second);
        _mm512_store_si512(pairs + 8 * (v + i), Width == 1 ? both : _mm512_permutexvar_epi16(by_query, both));
      }
    }
    const Vec rescale = power_of_two(before - top);
    _mm512_store_ps(sum, _mm512_fmadd_ps(_mm512_load_ps(sum), rescale, added(sums)));
    _mm512_store_ps(max, top);
    for (int64_t r = 0; r < Width; ++r)
      if (rescale[r] != 1.0f)
        for (int64_t h = 0; h < a.H; ++h) out[r * a.H + h] *= rescale[r];
    if constexpr (Width == 1) {
      std::memcpy(weight, pairs, count * sizeof(uint16_t));
    } else {
      for (int64_t s = 0; s < count; s += kTileDepth)
        transpose(pairs + 8 * s, 16, weight + s / kTileDepth * kTileWords);
    }
  }

  // Adds neighbours first, whether in different vectors or in different lanes: the same order for both widths.
  static Vec added(Vec (&sums)[Width]) {
    if constexpr (Width == 1) {
      const Vec two = sums[0] + _mm512_permute_ps(sums[0], 0xb1), four = two + _mm512_permute_ps(two, 0x4e);
      const Vec eight = four + _mm512_shuffle_f32x4(four, four, 0xb1);
      return eight + _mm512_shuffle_f32x4(eight, eight, 0x4e);
    }
    for (int width = 1; width < Width; width *= 2)
      for (int i = 0; i < Width; i += 2 * width) sums[i] += sums[i + width];
    return sums[0];
  }

  // out[query] += Σ weight[query][s] · v[s].
  void accumulate(const uint32_t* weight, const Packed& p, int64_t H) {
    const uint32_t* values = p.values;
    _tile_loadd(4, weight, 64);
    if (p.count > kTileDepth) _tile_loadd(5, weight + 16 * Width, 64);
    for (int64_t h = 0; h < H; h += 16, values += kParts * kTileWords) {
      _tile_loadd(3, out + h, H * sizeof(float));
      _tile_loadd(6, values, 64);
      _tile_dpbf16ps(3, 4, 6);
      if (p.count > kTileDepth) {
        _tile_loadd(7, values + kTileWords, 64);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(3, out + h, H * sizeof(float));
    }
  }
};

template <int Width>
void attend_by(const Attention& a, const Queries& queries, const Queries* next) {
  const int64_t seq = queries.sequence, kv = queries.kv_head, first = queries.first, count = queries.count;
  const int64_t H = a.H, columns = (count + Width - 1) / Width;
  Query query[kQueryRows];
  Column<Width> column[Width == 1 ? 1 : kQueryRows / Width];
  Packed packed;
  alignas(64) float score[kChunk * Width];
  alignas(64) uint32_t weight[kChunk / 2 * Width];
  Column<Width>::configure();
  for (int64_t i = 0, r = 0; i < columns; ++i, r += Width)
    column[i].start(a, seq, kv, first + r, count - r < Width ? count - r : Width, query + r);
  each_chunk<uint16_t>(a, seq, kv, query[0].begin, query[count - 1].end, next, [&](const Chunk<uint16_t>& chunk) {
    packed.read(chunk, H);
    for (int64_t i = 0; i < columns; ++i) {
      Column<Width>& c = column[i];
      if (c.begin[0] >= float(chunk.start + kChunk) || c.end[15] <= float(chunk.start)) continue;
      c.dots(packed, H, i == 0 ? chunk.next_keys : nullptr, score);
      c.update_softmax(a, chunk.start, packed.count, score, weight);
      c.accumulate(weight, packed, H);
    }
  });
  for (int64_t r = 0; r < count; ++r) {
    float* out = column[r / Width].out + r % Width * H;
    unpermute(H, out);
    write_output(a, query[r], column[r / Width].sum[r % Width], out);
  }
  _tile_release();
}

void attend(const Attention& a, const Queries& queries, const Queries* next) {
  queries.count == 1 ? attend_by<1>(a, queries, next) : attend_by<16>(a, queries, next);
}

}  // namespace
}  // namespace llm
