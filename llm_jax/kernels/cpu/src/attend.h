// Attention of new tokens over the cache: FlashAttention's online softmax (arXiv:2205.14135) over fixed chunks of keys.
// A query's arithmetic depends only on its position: not on other sequences, nor on the number of queries in a call.
#pragma once

#include <utility>

#include "cache.h"

namespace llm {
namespace {

// The scales of one chunk's int8 vectors.
struct Scales {
  alignas(64) float key[kChunk] = {}, value[kChunk] = {};
};

template <typename Cached>
Scales scales_of(const Attention& a, const Chunk<Cached>& c) {
  Scales scales;
  for (int64_t s = c.from; s < c.to; ++s) {
    std::memcpy(scales.key + s, c.keys + s * c.stride + a.H, sizeof(float));
    std::memcpy(scales.value + s, c.values + s * c.stride + a.H, sizeof(float));
  }
  return scales;
}

// The online softmax of a query: the maximum of its scores so far, and the sum of its weights.
struct Softmax {
  float max = kLowest, sum = 0.0f;
};

// Turns one chunk's scores into weights; `start` is the chunk's first position, `scales` may be null. Returns the
// factor that rescales the output so far.
inline float update_softmax(const Attention& a, const Query& query, int64_t start, const Scales* scales,
                            Softmax& softmax, float* score) {
  for (int s = 0; s < kChunk; ++s) score[s] *= a.scale;
  if (scales != nullptr)
    for (int s = 0; s < kChunk; ++s) score[s] *= scales->key[s];
  if (a.softcap > 0.0f)
    for (int s = 0; s < kChunk; ++s) score[s] = a.softcap * hyperbolic_tangent(score[s] / a.softcap);
  if (a.slopes != nullptr) {
    const float slope = a.slopes[query.head], distance = float(query.position - start);
    for (int s = 0; s < kChunk; ++s) score[s] -= slope * (distance - float(s));
  }
  const int from = int(query.begin - start), to = int(query.end - start);
  if (from > 0 || to < kChunk)
    for (int s = 0; s < kChunk; ++s) score[s] = s >= from && s < to ? score[s] : -__builtin_inff();
  const float top = largest(kChunk, softmax.max, [&](int64_t s) { return score[s]; });
  for (int s = 0; s < kChunk; ++s) score[s] = exponential(score[s] - top);
  const float rescale = exponential(softmax.max - top);
  softmax.sum = softmax.sum * rescale + sum(kChunk, [&](int64_t s) { return score[s]; });
  softmax.max = top;
  if (scales != nullptr)
    for (int s = 0; s < kChunk; ++s) score[s] *= scales->value[s];
  return rescale;
}

template <typename Lanes, typename Cached>
struct Attend {
  using Vec = typename Lanes::Vec;
  using Partial = typename Lanes::Partial;
  using Chunk = llm::Chunk<Cached>;
  static constexpr int kBlock = Lanes::kQueries;  // queries whose sums fit into the registers
  static constexpr int kKeys = 4;                 // that Lanes::sums reduces at once

  // score[r][s] = q[r] · k[s], four keys at a time, of which the last are padded with the last key. Meanwhile `lines`
  // are prefetched.
  template <int Rows>
  static void dots(const float* q, const Chunk& c, int64_t H, Ahead& ahead, int64_t lines, float* score) {
    const int64_t each = lines / ((c.to - c.from) / kKeys + 1) + 1;
    for (int64_t s = c.from / kKeys * kKeys; s < c.to; s += kKeys) {
      Partial acc[Rows][kKeys];
      const Cached* key[kKeys];
#pragma GCC unroll 4
      for (int i = 0; i < kKeys; ++i) {
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) acc[r][i] = Lanes::zero();
        key[i] = c.keys + (s + i < c.to ? s + i : c.to - 1) * c.stride;
      }
      ahead.fetch(each);
      for (int64_t h = 0; h < H; h += 16) {
        Vec x[Rows];
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) x[r] = Lanes::load(q + r * H + h);
#pragma GCC unroll 4
        for (int i = 0; i < kKeys; ++i) {
          const Vec k = Lanes::load(key[i] + h);
#pragma GCC unroll 4
          for (int r = 0; r < Rows; ++r) acc[r][i] = Lanes::dot(x[r], k, acc[r][i]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r)
        Lanes::sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3], score + r * kChunk + s);
    }
  }

  // out[r] += Σ weight[r][s] · v[s] from dimension h on, `Vecs` vectors of 16 at a time. Meanwhile `lines` are
  // prefetched.
  template <int Rows, int Vecs>
  static void accumulate(const float* weight, const Chunk& c, int64_t h, int64_t H, Ahead& ahead, int64_t lines,
                         float* out) {
    Vec acc[Rows][Vecs];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < Vecs; ++i) acc[r][i] = Lanes::load(out + r * H + h + 16 * i);
    const int64_t each = (lines + c.to - c.from - 1) / (c.to - c.from);
    for (int64_t s = c.from; s < c.to; ++s) {
      ahead.fetch(each);
#pragma GCC unroll 4
      for (int i = 0; i < Vecs; ++i) {
        const Vec x = Lanes::load(c.values + s * c.stride + h + 16 * i);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) acc[r][i] = Lanes::fma(Lanes::broadcast(weight[r * kChunk + s]), x, acc[r][i]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < Vecs; ++i) Lanes::store(out + r * H + h + 16 * i, acc[r][i]);
  }

  // One chunk for `Rows` queries. Meanwhile `lines` are prefetched, spread over its parts as these take time.
  template <int Rows>
  static void add_rows(const Attention& a, const Chunk& c, const Scales* scales, Ahead& ahead, int64_t lines,
                       const float* q, const Query* query, Softmax* softmax, float* out) {
    constexpr int kVecs = Lanes::kSums / Rows < 4 ? Lanes::kSums / Rows : 4;
    const int64_t H = a.H;
    alignas(64) float score[Rows * kChunk];
    const int64_t end = ahead.done + lines;
    dots<Rows>(q, c, H, ahead, lines * 3 / 8, score);
    for (int r = 0; r < Rows; ++r) {
      ahead.fetch(lines / 4 / Rows);
      const float rescale = update_softmax(a, query[r], c.start, scales, softmax[r], score + r * kChunk);
      if (rescale != 1.0f)
        for (int64_t h = 0; h < H; ++h) out[r * H + h] *= rescale;
    }
    const int64_t left = end > ahead.done ? end - ahead.done : 0;
    int64_t h = 0;
    for (; h + 16 * kVecs <= H; h += 16 * kVecs) accumulate<Rows, kVecs>(score, c, h, H, ahead, h == 0 ? left : 0, out);
    for (; h < H; h += 16) accumulate<Rows, 1>(score, c, h, H, ahead, 0, out);
  }

  // One chunk for `count` queries, kBlock at a time, then those that are left together: keys are widened once for all.
  template <std::size_t... Rows>
  static void add(const Attention& a, const Chunk& c, const Scales* scales, const float* q, const Query* query,
                  int64_t count, Softmax* softmax, float* out, std::index_sequence<Rows...>) {
    using AddRows = decltype(&add_rows<1>);
    static constexpr AddRows block[] = {add_rows<Rows + 1>...};  // by the number of queries - 1
    Ahead ahead = ahead_of(c);
    for (int64_t row = 0; row < count; row += kBlock) {
      const int64_t rows = count - row < kBlock ? count - row : kBlock;
      const int64_t lines = (ahead.lines - ahead.done) * rows / (count - row);
      block[rows - 1](a, c, scales, ahead, lines, q + row * a.H, query + row, softmax + row, out + row * a.H);
    }
  }

  static void attend(const Attention& a, const Queries& queries, const Queries* next) {
    const int64_t seq = queries.sequence, kv = queries.kv_head, first = queries.first, count = queries.count;
    const int64_t H = a.H;
    alignas(64) float q[kQueryRows * kMaxHead], out[kQueryRows * kMaxHead];
    Query query[kQueryRows];
    Softmax softmax[kQueryRows];
    for (int64_t r = 0; r < count; ++r) query[r] = query_of(a, seq, kv, first + r, q + r * H);
    std::memset(out, 0, count * H * sizeof(float));
    const std::make_index_sequence<kBlock> rows;
    each_chunk<Cached>(a, seq, kv, query[0].begin, query[count - 1].end, next, [&](const Chunk& chunk) {
      if constexpr (kScaled<Cached>) {
        const Scales scales = scales_of(a, chunk);
        add(a, chunk, &scales, q, query, count, softmax, out, rows);
      } else {
        add(a, chunk, nullptr, q, query, count, softmax, out, rows);
      }
    });
    for (int64_t r = 0; r < count; ++r) write_output(a, query[r], softmax[r].sum, out + r * H);
  }
};

template <typename Lanes>
void attend(const Attention& a, const Queries& queries, const Queries* next) {
  switch (a.keys.dtype) {
    case kFloat32: return Attend<Lanes, float>::attend(a, queries, next);
    case kBFloat16: return Attend<Lanes, uint16_t>::attend(a, queries, next);
    case kInt8: return Attend<Lanes, int8_t>::attend(a, queries, next);
  }
}

}  // namespace
}  // namespace llm
