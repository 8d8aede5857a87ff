// Attention of new tokens over the cache: FlashAttention's running softmax (arXiv:2205.14135) over fixed chunks of
// keys. A query's arithmetic depends on its own position only: not on its batch mates, nor on how many queries there
// are in a call.
#pragma once

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 64;     // keys at a time; with them their scores and values stay in the nearest cache
constexpr int64_t kMaxHead = 512;  // largest head size

inline void turn(const Attention& a, int64_t token, float* x) {
  const float *cosine = a.cosine + token * a.rotary, *sine = a.sine + token * a.rotary;
  for (int64_t i = 0; i < a.rotary; ++i) {
    const float first = x[i], second = x[i + a.rotary];
    x[i] = first * cosine[i] - second * sine[i];
    x[i + a.rotary] = second * cosine[i] + first * sine[i];
  }
}

// A query row of one key head: the running softmax of what it has seen.
struct Query {
  int64_t position, head;
  int64_t begin, end;  // the keys it sees
  float highest = -1e30f, total = 0.0f;
};

// Turns one chunk's scores into weights; `start` is the chunk's first position. Gives the factor by which what was
// mixed before shrinks.
inline float weigh(const Attention& a, Query& query, int64_t start, float* score) {
  for (int s = 0; s < kChunk; ++s) score[s] *= a.scale;
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
  return shrink;
}

template <typename Lanes, typename Cached>
struct Attend {
  using F = typename Lanes::F;
  static constexpr int kBlock = Lanes::kQueries;  // query rows whose sums fit the registers

  // score[r][s] = q[r] · k[s], four keys at a time; the last four are filled up with the last key. The same keys'
  // values come into the cache meanwhile.
  template <int R, typename Key>
  static void dots(const float* q, const Key* k, const Key* soon, int64_t H, int64_t from, int64_t to, float* score) {
    for (int64_t s = from / 4 * 4; s < to; s += 4) {
      F acc[R][4];
      const Key* key[4];
      for (int i = 0; i < 4; ++i) {
        for (int r = 0; r < R; ++r) acc[r][i] = Lanes::zero();
        key[i] = k + (s + i < to ? s + i : to - 1) * H;
      }
      if (soon != nullptr) prefetch(soon + s * H, 4 * H * sizeof(Key));
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

  // out[r] += Σ weight[r][s] · v[s], W vectors of 16 at a time
  template <int R, int W, typename Value>
  static void mix(const float* weight, const Value* v, const Value* soon, int64_t H, int64_t from, int64_t to,
                  float* out) {
    F acc[R][W];
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < W; ++i) acc[r][i] = Lanes::load(out + r * H + 16 * i);
    for (int64_t s = from; s < to; ++s) {
      if (soon != nullptr) prefetch(soon + s * H, 16 * W * sizeof(Value));
      for (int i = 0; i < W; ++i) {
        const F x = Lanes::load(v + s * H + 16 * i);
        for (int r = 0; r < R; ++r) acc[r][i] = Lanes::fma(Lanes::broadcast(weight[r * kChunk + s]), x, acc[r][i]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int i = 0; i < W; ++i) Lanes::store(out + r * H + 16 * i, acc[r][i]);
  }

  // One chunk for `count` rows, R at a time.
  template <int R, typename Key>
  static void rows(const Attention& a, const float* q, const Key* k, const Key* v, int64_t start, int64_t from,
                   int64_t to, bool more, Query* query, int64_t count, float* out) {
    if constexpr (R > 1)
      if (count % R) {
        rows<R / 2, Key>(a, q, k, v, start, from, to, more, query, count, out);
        return;
      }
    const int64_t H = a.H;
    alignas(64) float score[R][kChunk];
    for (int64_t row = 0; row < count; row += R, q += R * H, out += R * H) {
      const bool first = row == 0;
      dots<R>(q, k, first ? v : nullptr, H, from, to, score[0]);
      for (int r = 0; r < R; ++r) {
        const float shrink = weigh(a, query[row + r], start, score[r]);
        if (shrink != 1.0f)
          for (int64_t h = 0; h < H; ++h) out[r * H + h] *= shrink;
      }
      const Key* soon = first && more ? k + kChunk * H : nullptr;
      int64_t h = 0;
      for (; h + 64 <= H; h += 64) mix<R, 4>(score[0], v + h, soon ? soon + h : soon, H, from, to, out + h);
      for (; h < H; h += 16) mix<R, 1>(score[0], v + h, soon ? soon + h : soon, H, from, to, out + h);
    }
  }

  static void write(const Attention& a, int64_t b, int64_t kv) {
    alignas(64) float x[kMaxHead];
    for (int64_t t = 0; t < a.live[b] && a.lengths[b] + t < a.S; ++t) {
      const int64_t token = b * a.T + t, key = token * (a.N + 2 * a.K) + a.N + kv;
      const int64_t at = ((b * a.K + kv) * a.S + a.lengths[b] + t) * a.H;
      load(a.qkv, key * a.H, a.H, x);
      if (a.rotary > 0) turn(a, token, x);
      store(x, a.H, a.keys, at);
      load(a.qkv, (key + a.K) * a.H, a.H, x);
      store(x, a.H, a.values, at);
    }
  }

  static void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
    const int64_t H = a.H, G = a.N / a.K, length = a.lengths[b];
    alignas(64) float q[kQueryRows * kMaxHead], out[kQueryRows * kMaxHead];
    Query query[kQueryRows];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t t = (first + r) / G, position = length + t;
      Query& one = query[r];
      one.position = position, one.head = kv * G + (first + r) % G;
      one.begin = a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
      one.end = position < a.S ? position + 1 : a.S;
      load(a.qkv, ((b * a.T + t) * (a.N + 2 * a.K) + one.head) * H, H, q + r * H);
      if (a.rotary > 0) turn(a, b * a.T + t, q + r * H);
    }
    std::memset(out, 0, count * H * sizeof(float));
    const Cached* keys = static_cast<const Cached*>(a.keys.data) + (b * a.K + kv) * a.S * H;
    const Cached* values = static_cast<const Cached*>(a.values.data) + (b * a.K + kv) * a.S * H;
    // Chunks start at multiples of kChunk, so that the order of additions does not move with the window.
    const int64_t begin = query[0].begin, end = query[count - 1].end;
    for (int64_t start = begin / kChunk * kChunk; start < end; start += kChunk) {
      const int64_t from = start < begin ? begin - start : 0, to = start + kChunk < end ? kChunk : end - start;
      rows<kBlock, Cached>(a, q, keys + start * H, values + start * H, start, from, to, start + kChunk < end, query,
                           count, out);
    }
    for (int64_t r = 0; r < count; ++r) {
      const float inverse = 1.0f / query[r].total;
      for (int64_t h = 0; h < H; ++h) out[r * H + h] *= inverse;
      store(out + r * H, H, a.out, ((b * a.T + query[r].position - length) * a.N + query[r].head) * H);
    }
  }
};

template <typename Lanes>
void write(const Attention& a, int64_t b, int64_t kv) {
  a.keys.narrow ? Attend<Lanes, uint16_t>::write(a, b, kv) : Attend<Lanes, float>::write(a, b, kv);
}

template <typename Lanes>
void attend(const Attention& a, int64_t b, int64_t kv, int64_t first, int64_t count) {
  const int64_t G = a.N / a.K, live = a.live[b] * G - first, size = live < 0 ? 0 : live < count ? live : count;
  if (size > 0)
    a.keys.narrow ? Attend<Lanes, uint16_t>::attend(a, b, kv, first, size)
                  : Attend<Lanes, float>::attend(a, b, kv, first, size);
  const float nothing[16] = {};  // what is not live costs nothing and gives zeros
  for (int64_t r = first + size; r < first + count; ++r)
    for (int64_t h = 0; h < a.H; h += 16)
      store(nothing, 16, a.out, ((b * a.T + r / G) * a.N + kv * G + r % G) * a.H + h);
}

}  // namespace
}  // namespace llm
