// What attention of every level shares: where keys and values lie in the cache, what is written there, and what a
// query sees of it.
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

template <typename Cached>
constexpr bool kScaled = sizeof(Cached) == 1;  // one scale per row (symmetric), which is stored behind it

// From one cached row to the next.
template <typename Cached>
int64_t stride_of(const Attention& a) {
  return a.H + (kScaled<Cached> ? sizeof(float) : 0);
}

template <typename Cached>
Cached* head_of(const Attention& a, const Cache& cache, int64_t b, int64_t kv) {
  return static_cast<Cached*>(cache.data) + (b * a.K + kv) * a.S * stride_of<Cached>(a);
}

inline void turn(const Attention& a, int64_t token, float* x) {
  const float *cosine = a.cosine + token * a.rotary, *sine = a.sine + token * a.rotary;
  for (int64_t i = 0; i < a.rotary; ++i) {
    const float first = x[i], second = x[i + a.rotary];
    x[i] = first * cosine[i] - second * sine[i];
    x[i + a.rotary] = second * cosine[i] + first * sine[i];
  }
}

inline void quantise(const float* x, int64_t count, int8_t* to) {
  const float top = largest(count, 0.0f, [&](int64_t i) { return std::fabs(x[i]); });
  const float scale = top / 127.0f, inverse = top > 0.0f ? 127.0f / top : 0.0f;
  for (int64_t i = 0; i < count; ++i) to[i] = int8_t(bits_of(x[i] * inverse + 12582912.0f));  // as in `exponential`
  std::memcpy(to + count, &scale, sizeof scale);
}

template <typename Cached>
void put(const float* x, int64_t count, Cached* to) {
  if constexpr (kScaled<Cached>) {
    quantise(x, count, to);
  } else {
    store(x, count, Floats{to, sizeof(Cached) == 2}, 0);
  }
}

template <typename Cached>
void write(const Attention& a, int64_t b, int64_t kv) {
  alignas(64) float x[kMaxHead];
  for (int64_t t = 0; t < a.live[b] && slot(a, a.lengths[b] + t) < a.S; ++t) {
    const int64_t token = a.starts[b] + t, row = token * (a.N + 2 * a.K) + a.N + kv;
    const int64_t at = slot(a, a.lengths[b] + t) * stride_of<Cached>(a);
    load(a.qkv, row * a.H, a.H, x);
    if (a.rotary > 0) turn(a, token, x);
    put(x, a.H, head_of<Cached>(a, a.keys, b, kv) + at);
    load(a.qkv, (row + a.K) * a.H, a.H, x);
    put(x, a.H, head_of<Cached>(a, a.values, b, kv) + at);
  }
}

inline void write_any(const Attention& a, int64_t b, int64_t kv) {
  switch (a.keys.kind) {
    case kFloat32: return write<float>(a, b, kv);
    case kBFloat16: return write<uint16_t>(a, b, kv);
    case kInt8: return write<int8_t>(a, b, kv);
  }
}

// One of the queries that share a key head.
struct Query {
  int64_t token, position, head;
  int64_t begin, end;  // the keys it sees
};

// Query r of row b, and its vector.
inline Query query_of(const Attention& a, int64_t b, int64_t kv, int64_t r, float* q) {
  const int64_t G = a.N / a.K, t = r / G, head = kv * G + r - t * G;
  const int64_t token = a.starts[b] + t, position = a.lengths[b] + t;
  load(a.qkv, (token * (a.N + 2 * a.K) + head) * a.H, a.H, q);
  if (a.rotary > 0) turn(a, token, q);
  return {token, position, head, a.window > 0 && position >= a.window ? position + 1 - a.window : 0,
          slot(a, position) < a.S ? position + 1 : a.S};
}

// Divides what was mixed by the sum of the weights.
inline void conclude(const Attention& a, const Query& query, float total, float* out) {
  const float inverse = 1.0f / total;
  for (int64_t h = 0; h < a.H; ++h) out[h] *= inverse;
  store(out, a.H, a.out, (query.token * a.N + query.head) * a.H);
}

// The part of a chunk that some query sees, and whether another chunk follows.
template <typename Cached>
struct Chunk {
  const Cached *keys, *values;
  int64_t start, from, to;  // start: a position; from and to count from it
  int64_t stride, room;     // room: rows that the cache has from here on
  bool more;
};

// Chunks start at multiples of kChunk, so that the order of additions does not move with the window.
template <typename Cached, typename Each>
void each_chunk(const Attention& a, int64_t b, int64_t kv, int64_t begin, int64_t end, Each each) {
  const Cached *keys = head_of<Cached>(a, a.keys, b, kv), *values = head_of<Cached>(a, a.values, b, kv);
  const int64_t stride = stride_of<Cached>(a);
  for (int64_t start = begin / kChunk * kChunk; start < end; start += kChunk) {
    const int64_t at = slot(a, start), left = end - start;
    each(Chunk<Cached>{keys + at * stride, values + at * stride, start, start < begin ? begin - start : 0,
                       left < kChunk ? left : kChunk, stride, a.S - at, left > kChunk});
  }
}

}  // namespace
}  // namespace llm
