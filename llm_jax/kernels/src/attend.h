// Attention of new tokens over the cache: FlashAttention's running softmax (arXiv:2205.14135) over fixed chunks of
// keys. A query's arithmetic depends on its own position only: not on its batch mates, nor on how many queries there
// are in a call.
#pragma once

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 64;     // keys at a time; with them their scores and values stay in the nearest cache
constexpr int64_t kMaxHead = 512;  // largest head size

// Where a position lies in the cache. With a window it is a ring, once that holds the window and the new tokens: what
// these overwrite, none of them sees. `ring` of llm_jax/kernels/cached.py is the same rule.
inline int64_t slot(const Attention& a, int64_t position) {
  const bool ring = a.window > 0 && a.S % kChunk == 0 && a.S >= a.window + a.longest - 1;
  return ring ? position % a.S : position;
}

inline void turn(const Attention& a, int64_t token, float* x) {
  const float *cosine = a.cosine + token * a.rotary, *sine = a.sine + token * a.rotary;
  for (int64_t i = 0; i < a.rotary; ++i) {
    const float first = x[i], second = x[i + a.rotary];
    x[i] = first * cosine[i] - second * sine[i];
    x[i + a.rotary] = second * cosine[i] + first * sine[i];
  }
}

// One scale per row (symmetric), which is stored behind it.
inline void quantise(const float* x, int64_t count, int8_t* to) {
  const float top = largest(count, 0.0f, [&](int64_t i) { return std::fabs(x[i]); });
  const float scale = top / 127.0f, inverse = top > 0.0f ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < count; ++i) to[i] = int8_t(bits_of(x[i] * inverse + 12582912.0f));  // as in `exponential`
  std::memcpy(to + count, &scale, sizeof scale);
}

// A query row of one key head: the running softmax of what it has seen.
struct Query {
  int64_t position, head;
  int64_t begin, end;  // the keys it sees
  float highest = -1e30f, total = 0.0f;
};

// What one chunk's int8 rows are multiplied by.
struct Scales {
  alignas(64) float key[kChunk] = {}, value[kChunk] = {};
};

// Turns one chunk's scores into weights; `start` is the chunk's first position, `scales` may be null. Gives the
// factor by which what was mixed before shrinks.
inline float weigh(const Attention& a, Query& query, int64_t start, const Scales* scales, float* score) {
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
  const float top = largest(kChunk, query.highest, [&](int64_t s) { return score[s]; });
  for (int s = 0; s < kChunk; ++s) score[s] = exponential(score[s] - top);
  const float shrink = exponential(query.highest - top);
  query.total = query.total * shrink + sum(kChunk, [&](int64_t s) { return score[s]; });
  query.highest = top;
  if (scales != nullptr)
    for (int s = 0; s < kChunk; ++s) score[s] *= scales->value[s];
  return shrink;
}

template <typename Lanes, typename Cached>
struct Attend {
  using F = typename Lanes::F;
  static constexpr bool kScaled = sizeof(Cached) == 1;
  static constexpr int kBlock = Lanes::kQueries;  // query rows whose sums fit the registers

  // From one cached row to the next.
  static int64_t stride(const Attention& a) { return a.H + (kScaled ? sizeof(float) : 0); }

  static Cached* head(const Attention& a, const Cache& cache, int64_t b, int64_t kv) {
    return static_cast<Cached*>(cache.data) + (b * a.K + kv) * a.S * stride(a);
  }

  // The part of a chunk that some query sees, and whether another chunk follows.
  struct Chunk {
    const Cached *keys, *values;
    int64_t start, from, to, stride;  // start: a position; from and to count from it
    bool more;
  };

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
  static void add(const Attention& a, const Chunk& c, const Scales* scales, const float* q, Query* query,
                  int64_t count, float* out) {
    if constexpr (R > 1) {
      if (count % R) return add<R / 2>(a, c, scales, q, query, count, out);
    }
    const int64_t H = a.H;
    alignas(64) float score[R * kChunk];
    for (int64_t row = 0; row < count; row += R, q += R * H, out += R * H) {
      const bool first = row == 0;
      dots<R>(q, c, H, first, score);
      for (int r = 0; r < R; ++r) {
        const float shrink = weigh(a, query[row + r], c.start, scales, score + r * kChunk);
        if (shrink != 1.0f)
          for (int64_t h = 0; h < H; ++h) out[r * H + h] *= shrink;
      }
      int64_t h = 0;
      for (; h + 64 <= H; h += 64) mix<R, 4>(score, c, h, H, first && c.more, out);
      for (; h < H; h += 16) mix<R, 1>(score, c, h, H, first && c.more, out);
    }
  }

  static void write(const Attention& a, int64_t b, int64_t kv) {
    alignas(64) float x[kMaxHead];
    for (int64_t t = 0; t < a.live[b] && slot(a, a.lengths[b] + t) < a.S; ++t) {
      const int64_t token = a.starts[b] + t, row = token * (a.N + 2 * a.K) + a.N + kv;
      const int64_t at = slot(a, a.lengths[b] + t) * stride(a);
      load(a.qkv, row * a.H, a.H, x);
      if (a.rotary > 0) turn(a, token, x);
      put(x, a.H, head(a, a.keys, b, kv) + at);
      load(a.qkv, (row + a.K) * a.H, a.H, x);
      put(x, a.H, head(a, a.values, b, kv) + at);
    }
  }

  static void put(const float* x, int64_t count, Cached* to) {
    if constexpr (kScaled) {
      quantise(x, count, to);
    } else {
      store(x, count, Floats{to, sizeof(Cached) == 2}, 0);
    }
  }

  static void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
    const int64_t H = a.H, G = a.N / a.K, length = a.lengths[b];
    alignas(64) float q[kQueryRows * kMaxHead], out[kQueryRows * kMaxHead];
    Query query[kQueryRows];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t t = (first + r) / G, token = a.starts[b] + t, position = length + t;
      Query& one = query[r];
      one.position = position, one.head = kv * G + (first + r) % G;
      one.begin = a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
      one.end = slot(a, position) < a.S ? position + 1 : a.S;
      load(a.qkv, (token * (a.N + 2 * a.K) + one.head) * H, H, q + r * H);
      if (a.rotary > 0) turn(a, token, q + r * H);
    }
    std::memset(out, 0, count * H * sizeof(float));
    const Cached *keys = head(a, a.keys, b, kv), *values = head(a, a.values, b, kv);
    // Chunks start at multiples of kChunk, so that the order of additions does not move with the window.
    const int64_t begin = query[0].begin, end = query[count - 1].end;
    for (int64_t start = begin / kChunk * kChunk; start < end; start += kChunk) {
      const int64_t at = slot(a, start) * stride(a), left = end - start;
      const Chunk chunk{keys + at, values + at, start, start < begin ? begin - start : 0,
                        left < kChunk ? left : kChunk, stride(a), left > kChunk};
      if constexpr (kScaled) {
        Scales scales;
        for (int64_t s = chunk.from; s < chunk.to; ++s) {
          std::memcpy(scales.key + s, chunk.keys + s * chunk.stride + H, sizeof(float));
          std::memcpy(scales.value + s, chunk.values + s * chunk.stride + H, sizeof(float));
        }
        add<kBlock>(a, chunk, &scales, q, query, count, out);
      } else {
        add<kBlock>(a, chunk, nullptr, q, query, count, out);
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      const float inverse = 1.0f / query[r].total;
      for (int64_t h = 0; h < H; ++h) out[r * H + h] *= inverse;
      store(out + r * H, H, a.out, ((a.starts[b] + query[r].position - length) * a.N + query[r].head) * H);
    }
  }
};

template <typename Lanes>
void write(const Attention& a, int64_t b, int64_t kv) {
  switch (a.keys.kind) {
    case kFloat32: return Attend<Lanes, float>::write(a, b, kv);
    case kBFloat16: return Attend<Lanes, uint16_t>::write(a, b, kv);
    case kInt8: return Attend<Lanes, int8_t>::write(a, b, kv);
  }
}

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
