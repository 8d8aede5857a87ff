// Attention with AMX tiles, over bfloat16 rows of a multiple of 32 values: the running softmax of attend.h, in one
// arithmetic for any number of queries.
//
// Scores are keys · queriesᵀ: keys are read as they lie in the cache, and only queries must be packed, once. What is
// mixed is weights · values, both bfloat16; a chunk's values are packed once for all queries.
#pragma once

#include "chunk_amx.h"
#include "tiles.h"

namespace llm {
namespace {

using F = __m512;

// 2^x within 3e-6: exactly 1 at 0, and 0 at -inf. The polynomial is fitted to 2^r for 0 <= r < 1.
inline F power_of_two(F x) {
  const F r = _mm512_reduce_ps(x, 9);  // x - floor(x), 0 at -inf
  F p = _mm512_set1_ps(0.013426684f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.05224247f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.2412802f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.6930448f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, x);
}

inline __m512i narrowed(F low, F high) { return __m512i(_mm512_cvtne2ps_pbh(high, low)); }

// W queries side by side: sixteen, one in each lane of a vector of scores, or a single one, whose keys fill the lanes.
template <int W>
struct Column {
  // The running softmax (`highest` is an exponent of 2) and what the queries see, ascending.
  alignas(64) float highest[16], total[16], position[16], slope[16], begin[16], end[16];
  alignas(64) uint32_t q[W * kMaxHead / 2];  // tiles of 16 pairs of dimensions × W
  alignas(64) float out[W * kMaxHead];

  // Registers 0-1 hold scores, 2 queries, 3 what is mixed, 4-5 weights, 6-7 keys or values.
  static void configure() {
    const Shape queries{16, 4 * W}, rows{W, 64}, all{16, 64};
    llm::configure({queries, queries, queries, rows, rows, rows, all, all});
  }

  // Takes `count` queries from `first` on. Lanes that are left over repeat the last.
  void start(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count, Query* query) {
    alignas(64) float x[kMaxHead];
    alignas(64) uint16_t narrow[W * kMaxHead];
    std::memset(narrow + count * a.H, 0, (W - count) * a.H * sizeof(uint16_t));
    for (int64_t r = 0; r < count; ++r) {
      query[r] = query_of(a, b, kv, first + r, x);
      for (int64_t h = 0; h < a.H; h += 32)
        _mm512_store_si512(narrow + r * a.H + h, narrowed(_mm512_load_ps(x + h), _mm512_load_ps(x + h + 16)));
    }
    for (int64_t i = 0; i < 16; ++i) {
      const Query& one = query[i < count ? i : count - 1];
      highest[i] = -1e30f, total[i] = 0.0f;
      position[i] = float(one.position), slope[i] = a.slopes == nullptr ? 0.0f : a.slopes[one.head];
      begin[i] = float(one.begin), end[i] = float(one.end);
    }
    if constexpr (W == 1) {
      std::memcpy(q, narrow, a.H * sizeof(uint16_t));
    } else {
      for (int64_t h = 0; h < a.H; h += kDeep)
        transpose(reinterpret_cast<uint32_t*>(narrow + h), a.H / 2, q + h / kDeep * kWords);
    }
    std::memset(out, 0, W * a.H * sizeof(float));
  }

  // score[s][query] = k[s] · q[query]. The next chunk's keys, if any, come nearer meanwhile.
  void dots(const Packed& p, int64_t H, const uint16_t* next, float* score) const {
    for (int64_t s = 0; s < p.count; s += 32) {
      _tile_zero(0);
      _tile_zero(1);
      for (int64_t h = 0; h < H; h += kDeep) {
        if (next != nullptr) ask_for(next + s * H + h * 32, 32 * kDeep * sizeof(uint16_t));
        _tile_loadd(2, q + h / 2 * W, 4 * W);
        _tile_loadd(6, p.keys + s * H + h, H * sizeof(uint16_t));
        _tile_dpbf16ps(0, 6, 2);
        _tile_loadd(7, p.keys + (s + 16) * H + h, H * sizeof(uint16_t));
        _tile_dpbf16ps(1, 7, 2);
      }
      _tile_stored(0, score + s * W, 4 * W);
      _tile_stored(1, score + (s + 16) * W, 4 * W);
    }
  }

  // The keys in the lanes of vector v of a chunk's scores.
  static F keys_of(int64_t v) {
    if constexpr (W == 16) return _mm512_set1_ps(float(v));
    return _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + _mm512_set1_ps(float(16 * v));
  }

  // What a score may need before its softmax.
  void adjust(const Attention& a, int64_t start, int64_t vectors, float* score) const {
    const F distance = _mm512_load_ps(position) - _mm512_set1_ps(float(start));
    for (int64_t v = 0; v < vectors; ++v, score += 16) {
      for (int i = 0; i < 16; ++i) score[i] *= a.scale;
      if (a.softcap > 0.0f)
        for (int i = 0; i < 16; ++i) score[i] = a.softcap * hyperbolic_tangent(score[i] / a.softcap);
      if (a.slopes != nullptr)
        _mm512_store_ps(score, _mm512_fnmadd_ps(_mm512_load_ps(slope), distance - keys_of(v), _mm512_load_ps(score)));
    }
  }

  void hide(int64_t start, int64_t vectors, float* score) const {
    const F from = _mm512_load_ps(begin) - _mm512_set1_ps(float(start));
    const F to = _mm512_load_ps(end) - _mm512_set1_ps(float(start));
    for (int64_t v = 0; v < vectors; ++v, score += 16) {
      const F key = keys_of(v), never = _mm512_set1_ps(-__builtin_inff());
      const __mmask16 seen = _mm512_cmp_ps_mask(key, from, _CMP_GE_OQ) & _mm512_cmp_ps_mask(key, to, _CMP_LT_OQ);
      _mm512_store_ps(score, _mm512_mask_blend_ps(seen, never, _mm512_load_ps(score)));
    }
  }

  // Turns scores into tiles of weights, [queries][keys]; what was mixed before shrinks.
  void weigh(const Attention& a, int64_t start, int64_t count, float* score, uint32_t* weight) {
    const int64_t vectors = count * W / 16;
    const bool plain = a.softcap == 0.0f && a.slopes == nullptr;
    if (!plain) adjust(a, start, vectors, score);
    if (begin[15] > float(start) || end[0] < float(start + count)) hide(start, vectors, score);

    const F factor = _mm512_set1_ps(1.44269504f * (plain ? a.scale : 1.0f)), before = _mm512_load_ps(highest);
    F top = _mm512_load_ps(score);
    for (int64_t v = 1; v < vectors; ++v) top = _mm512_max_ps(top, _mm512_load_ps(score + 16 * v));
    if constexpr (W == 1) top = _mm512_set1_ps(_mm512_reduce_max_ps(top));
    top = _mm512_max_ps(before, top * factor);

    constexpr int kStep = W == 1 ? 2 : W;
    const __m512i by_query = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                              23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    alignas(64) uint32_t pairs[kChunk / 2 * W];
    F sums[W] = {};  // of keys that are equal modulo 16
    for (int64_t v = 0; v < vectors; v += kStep) {
#pragma GCC unroll 8
      for (int i = 0; i < kStep; i += 2) {
        const float* x = score + 16 * (v + i);
        const F first = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x), factor, top));
        const F second = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(x + 16), factor, top));
        sums[i % W] += first, sums[(i + 1) % W] += second;
        const __m512i both = narrowed(first, second);
        _mm512_store_si512(pairs + 8 * (v + i), W == 1 ? both : _mm512_permutexvar_epi16(by_query, both));
      }
    }
    const F shrink = power_of_two(before - top);
    _mm512_store_ps(total, _mm512_fmadd_ps(_mm512_load_ps(total), shrink, added(sums)));
    _mm512_store_ps(highest, top);
    for (int64_t r = 0; r < W; ++r)
      if (shrink[r] != 1.0f)
        for (int64_t h = 0; h < a.H; ++h) out[r * a.H + h] *= shrink[r];
    if constexpr (W == 1) {
      std::memcpy(weight, pairs, count * sizeof(uint16_t));
    } else {
      for (int64_t s = 0; s < count; s += kDeep) transpose(pairs + 8 * s, 16, weight + s / kDeep * kWords);
    }
  }

  // Neighbours first, whether they lie in different vectors or in different lanes.
  static F added(F (&sums)[W]) {
    if constexpr (W == 1) {
      const F two = sums[0] + _mm512_permute_ps(sums[0], 0xb1), four = two + _mm512_permute_ps(two, 0x4e);
      const F eight = four + _mm512_shuffle_f32x4(four, four, 0xb1);
      return eight + _mm512_shuffle_f32x4(eight, eight, 0x4e);
    }
    for (int width = 1; width < W; width *= 2)
      for (int i = 0; i < W; i += 2 * width) sums[i] += sums[i + width];
    return sums[0];
  }

  // out[query] += Σ weight[query][s] · v[s].
  void mix(const uint32_t* weight, const Packed& p, int64_t H) {
    const uint32_t* values = p.values;
    _tile_loadd(4, weight, 64);
    if (p.count > kDeep) _tile_loadd(5, weight + 16 * W, 64);
    for (int64_t h = 0; h < H; h += 16, values += kParts * kWords) {
      _tile_loadd(3, out + h, H * sizeof(float));
      _tile_loadd(6, values, 64);
      _tile_dpbf16ps(3, 4, 6);
      if (p.count > kDeep) {
        _tile_loadd(7, values + kWords, 64);
        _tile_dpbf16ps(3, 5, 7);
      }
      _tile_stored(3, out + h, H * sizeof(float));
    }
  }
};

template <int W>
void attend_by(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
  const int64_t H = a.H, columns = (count + W - 1) / W;
  Query query[kQueryRows];
  Column<W> column[W == 1 ? 1 : kQueryRows / W];
  Packed packed;
  alignas(64) float score[kChunk * W];
  alignas(64) uint32_t weight[kChunk / 2 * W];
  Column<W>::configure();
  for (int64_t i = 0, r = 0; i < columns; ++i, r += W)
    column[i].start(a, b, kv, first + r, count - r < W ? count - r : W, query + r);
  each_chunk<uint16_t>(a, b, kv, query[0].begin, query[count - 1].end, [&](const Chunk<uint16_t>& chunk) {
    packed.read(chunk, H);
    for (int64_t i = 0; i < columns; ++i) {
      Column<W>& c = column[i];
      if (c.begin[0] >= float(chunk.start + kChunk) || c.end[15] <= float(chunk.start)) continue;
      c.dots(packed, H, i == 0 && chunk.more ? chunk.keys + kChunk * H : nullptr, score);
      c.weigh(a, chunk.start, packed.count, score, weight);
      c.mix(weight, packed, H);
    }
  });
  for (int64_t r = 0; r < count; ++r) {
    float* out = column[r / W].out + r % W * H;
    reorder(H, out);
    conclude(a, query[r], column[r / W].total[r % W], out);
  }
  _tile_release();
}

void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
  count == 1 ? attend_by<1>(a, b, kv, first, count) : attend_by<16>(a, b, kv, first, count);
}

}  // namespace
}  // namespace llm
