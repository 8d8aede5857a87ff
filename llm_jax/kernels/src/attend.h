// Attention of new tokens over the cache: FlashAttention's running softmax (arXiv:2205.14135) over fixed chunks of
// keys. A query's arithmetic depends on its own position only: not on its batch mates, nor on how many queries there
// are in a call.
#pragma once

#include "cache.h"

namespace llm {
namespace {

// What one chunk's int8 rows are multiplied by.
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

// The running softmax of what a query has seen.
struct Seen {
  float highest = -1e30f, total = 0.0f;
};

// Turns one chunk's scores into weights; `start` is the chunk's first position, `scales` may be null. Gives the
// factor by which what was mixed before shrinks.
inline float weigh(const Attention& a, const Query& query, int64_t start, const Scales* scales, Seen& seen,
                   float* score) {
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
  const float top = largest(kChunk, seen.highest, [&](int64_t s) { return score[s]; });
  for (int s = 0; s < kChunk; ++s) score[s] = exponential(score[s] - top);
  const float shrink = exponential(seen.highest - top);
  seen.total = seen.total * shrink + sum(kChunk, [&](int64_t s) { return score[s]; });
  seen.highest = top;
  if (scales != nullptr)
    for (int s = 0; s < kChunk; ++s) score[s] *= scales->value[s];
  return shrink;
}

template <typename Lanes, typename Cached>
struct Attend {
  using F = typename Lanes::F;
  using Chunk = llm::Chunk<Cached>;
  static constexpr int kBlock = Lanes::kQueries;  // query rows whose sums fit the registers

  // score[r][s] = q[r] · k[s], four keys at a time; the last four are filled up with the last key. The same keys'
  // values come into the nearest cache meanwhile, if `ahead`.
  template <int R>
  static void dots(const float* q, const Chunk& c, int64_t H, bool ahead, float* score) {
    for (int64_t s = c.from / 4 * 4; s < c.to; s += 4) {
      F acc[R][4];
      const Cached* key[4];
      for (int i = 0; i < 4; ++i) {
        for (int r = 0; r < R; ++r) acc[r][i] = Lanes::zero();
        key[i] = c.keys + (s + i < c.to ? s + i : c.to - 1) * c.stride;
      }
      if (ahead) prefetch(c.values + s * c.stride, 4 * c.stride * sizeof(Cached));
      for (int64_t h = 0; h < H; h += 16) {
        for (int i = 0; i < 4; ++i) {
          const F x = Lanes::load(key[i] + h);
          for (int r = 0; r < R; ++r) acc[r][i] = Lanes::fma(Lanes::load(q + r * H + h), x, acc[r][i]);
        }
      }
      for (int r = 0; r < R; ++r)
        Lanes::sums(acc[r][0], acc[r][1], acc[r][2], acc[r][3], score + r * kChunk + s);
    }
  }

  // out[r] += Σ weight[r][s] · v[s] from dimension h on, W vectors of 16 at a time. The next chunk's keys come into
  // the nearest cache meanwhile, if `ahead`.
  template <int R, int W>
  static void mix(const float* weight, const Chunk& c, int64_t h, int64_t H, bool ahead, float* out) {
    F acc[R][W];
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < W; ++i) acc[r][i] = Lanes::load(out + r * H + h + 16 * i);
    for (int64_t s = c.from; s < c.to; ++s) {
      if (ahead) prefetch(c.keys + (kChunk + s) * c.stride + h, 16 * W * sizeof(Cached));
      for (int i = 0; i < W; ++i) {
        const F x = Lanes::load(c.values + s * c.stride + h + 16 * i);
        for (int r = 0; r < R; ++r) acc[r][i] = Lanes::fma(Lanes::broadcast(weight[r * kChunk + s]), x, acc[r][i]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < W; ++i) Lanes::store(out + r * H + h + 16 * i, acc[r][i]);
  }

  // One chunk for `count` queries, R at a time.
  template <int R>
  static void add(const Attention& a, const Chunk& c, const Scales* scales, const float* q, const Query* query,
                  int64_t count, Seen* seen, float* out) {
    if constexpr (R > 1) {
      if (count % R) return add<R / 2>(a, c, scales, q, query, count, seen, out);
    }
    const int64_t H = a.H;
    alignas(64) float score[R * kChunk];
    for (int64_t row = 0; row < count; row += R, q += R * H, out += R * H) {
      const bool first = row == 0;
      dots<R>(q, c, H, first, score);
      for (int r = 0; r < R; ++r) {
        const float shrink = weigh(a, query[row + r], c.start, scales, seen[row + r], score + r * kChunk);
        if (shrink != 1.0f)
          for (int64_t h = 0; h < H; ++h) out[r * H + h] *= shrink;
      }
      int64_t h = 0;
      for (; h + 64 <= H; h += 64) mix<R, 4>(score, c, h, H, first && c.more, out);
      for (; h < H; h += 16) mix<R, 1>(score, c, h, H, first && c.more, out);
    }
  }

  static void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
    const int64_t H = a.H;
    alignas(64) float q[kQueryRows * kMaxHead], out[kQueryRows * kMaxHead];
    Query query[kQueryRows];
    Seen seen[kQueryRows];
    for (int64_t r = 0; r < count; ++r) query[r] = query_of(a, b, kv, first + r, q + r * H);
    std::memset(out, 0, count * H * sizeof(float));
    each_chunk<Cached>(a, b, kv, query[0].begin, query[count - 1].end, [&](const Chunk& chunk) {
      if constexpr (kScaled<Cached>) {
        const Scales scales = scales_of(a, chunk);
        add<kBlock>(a, chunk, &scales, q, query, count, seen, out);
      } else {
        add<kBlock>(a, chunk, nullptr, q, query, count, seen, out);
      }
    });
    for (int64_t r = 0; r < count; ++r) conclude(a, query[r], seen[r].total, out + r * H);
  }
};

template <typename Lanes>
void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
  switch (a.keys.kind) {
    case kFloat32: return Attend<Lanes, float>::attend(a, b, kv, first, count);
    case kBFloat16: return Attend<Lanes, uint16_t>::attend(a, b, kv, first, count);
    case kInt8: return Attend<Lanes, int8_t>::attend(a, b, kv, first, count);
  }
}

}  // namespace
}  // namespace llm
