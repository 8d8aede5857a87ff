// Shared by attention of every level: the layout of the KV cache, writing to it, and the range of keys of a query.
#pragma once

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 64;     // keys at a time: they, their scores and values stay in the L1 cache
constexpr int64_t kMaxHead = 512;  // largest head size
constexpr float kLowest = -1e30f;  // below any score, and finite: the difference of two is 0, not NaN

// The index of a position in the cache. With a window the cache is a ring buffer if it has the capacity for the window
// and the new tokens, so that these overwrite only keys outside their windows. `_is_ring` of
// llm_jax/kernels/cache_format.py is the same rule.
inline int64_t cache_index(const Attention& a, int64_t position) {
  const bool ring = a.window > 0 && a.S % kChunk == 0 && a.S >= a.window + a.max_new_tokens - 1;
  return ring ? position % a.S : position;
}

template <typename Cached>
constexpr bool kScaled = sizeof(Cached) == 1;  // int8: a scale after each vector (symmetric)

// From one cached vector to the next.
template <typename Cached>
int64_t stride_of(const Attention& a) {
  return a.H + (kScaled<Cached> ? sizeof(float) : 0);
}

template <typename Cached>
Cached* head_of(const Attention& a, const Cache& cache, int64_t seq, int64_t kv) {
  return static_cast<Cached*>(cache.data) + (seq * a.K + kv) * a.S * stride_of<Cached>(a);
}

// Rotary positions, in place.
inline void rotate(const Attention& a, int64_t token, float* x) {
  const float *cosine = a.cosine + token * a.rotary, *sine = a.sine + token * a.rotary;
  for (int64_t i = 0; i < a.rotary; ++i) {
    const float first = x[i], second = x[i + a.rotary];
    x[i] = first * cosine[i] - second * sine[i];
    x[i + a.rotary] = second * cosine[i] + first * sine[i];
  }
}

inline void quantise(const float* x, int64_t count, int8_t* to) {
  const float top = largest(count, 0.0f, [&](int64_t i) { return std::fabs(x[i]); });
  const float scale = top / kInt8Max, inverse = top > 0.0f ? kInt8Max / top : 0.0f;
  for (int64_t i = 0; i < count; ++i) to[i] = int8_t(bits_of(x[i] * inverse + kRounder));
  std::memcpy(to + count, &scale, sizeof scale);
}

template <typename Cached>
void store_vector(const float* x, int64_t count, Cached* to) {
  if constexpr (kScaled<Cached>) {
    quantise(x, count, to);
  } else {
    store(x, count, Floats{to, sizeof(Cached) == 2}, 0);
  }
}

template <typename Cached>
void write(const Attention& a, int64_t seq, int64_t kv) {
  alignas(64) float x[kMaxHead];
  for (int64_t t = 0; t < a.new_tokens[seq] && cache_index(a, a.lengths[seq] + t) < a.S; ++t) {
    const int64_t token = a.starts[seq] + t, row = token * (a.N + 2 * a.K) + a.N + kv;
    const int64_t at = cache_index(a, a.lengths[seq] + t) * stride_of<Cached>(a);
    load(a.qkv, row * a.H, a.H, x);
    if (a.rotary > 0) rotate(a, token, x);
    store_vector(x, a.H, head_of<Cached>(a, a.keys, seq, kv) + at);
    load(a.qkv, (row + a.K) * a.H, a.H, x);
    store_vector(x, a.H, head_of<Cached>(a, a.values, seq, kv) + at);
  }
}

inline void write_any(const Attention& a, int64_t seq, int64_t kv) {
  switch (a.keys.dtype) {
    case kFloat32: return write<float>(a, seq, kv);
    case kBFloat16: return write<uint16_t>(a, seq, kv);
    case kInt8: return write<int8_t>(a, seq, kv);
  }
}

// One of the queries that share a key/value head.
struct Query {
  int64_t token, position, head;
  int64_t begin, end;  // the positions it attends to
};

// Query i of a sequence, and its vector.
inline Query query_of(const Attention& a, int64_t seq, int64_t kv, int64_t i, float* q) {
  const int64_t G = a.N / a.K, t = i / G, head = kv * G + i - t * G;
  const int64_t token = a.starts[seq] + t, position = a.lengths[seq] + t;
  load(a.qkv, (token * (a.N + 2 * a.K) + head) * a.H, a.H, q);
  if (a.rotary > 0) rotate(a, token, q);
  return {token, position, head, a.window > 0 && position >= a.window ? position + 1 - a.window : 0,
          cache_index(a, position) < a.S ? position + 1 : a.S};
}

// Divides the weighted sum of values by the sum of the weights, and writes it.
inline void write_output(const Attention& a, const Query& query, float total, float* out) {
  const float inverse = 1.0f / total;
  for (int64_t h = 0; h < a.H; ++h) out[h] *= inverse;
  store(out, a.H, a.out, (query.token * a.N + query.head) * a.H);
}

// A chunk of the keys and values of one head; from … to are the keys that some query attends to.
template <typename Cached>
struct Chunk {
  const Cached *keys, *values;
  int64_t start, from, to;   // start: a position; from and to are relative to it
  int64_t stride, capacity;  // capacity: vectors from here to the end of the cache
  bool has_next;             // whether another chunk follows
};

// Chunks start at multiples of kChunk, so that the order of additions does not depend on the window.
template <typename Cached, typename Each>
void each_chunk(const Attention& a, int64_t seq, int64_t kv, int64_t begin, int64_t end, Each each) {
  const Cached *keys = head_of<Cached>(a, a.keys, seq, kv), *values = head_of<Cached>(a, a.values, seq, kv);
  const int64_t stride = stride_of<Cached>(a);
  for (int64_t start = begin / kChunk * kChunk; start < end; start += kChunk) {
    const int64_t at = cache_index(a, start), left = end - start;
    each(Chunk<Cached>{keys + at * stride, values + at * stride, start, start < begin ? begin - start : 0,
                       left < kChunk ? left : kChunk, stride, a.S - at, left > kChunk});
  }
}

}  // namespace
}  // namespace llm
