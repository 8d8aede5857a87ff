// Shared by attention of every level: the layout of the KV cache, writing to it, and the range of keys of a query.
#pragma once

#include "rows.h"

namespace llm {
namespace {

template <typename Cached>
constexpr bool kScaled = sizeof(Cached) == 1;  // int8: a scale after each vector (symmetric)

// From one cached vector to the next.
template <typename Cached>
int64_t stride_of(const Attention& a) {
  return a.H + (kScaled<Cached> ? sizeof(float) : 0);
}

// The cached vector of one head at a position of a sequence.
template <typename Cached>
Cached* vector_of(const Attention& a, const Cache& cache, int64_t seq, int64_t kv, int64_t position) {
  const int64_t index = position / a.block_tokens, block = a.blocks[seq * a.max_blocks + index];
  const int64_t at = (block * a.K + kv) * a.block_tokens + position - index * a.block_tokens;
  return static_cast<Cached*>(cache.data) + at * stride_of<Cached>(a);
}

// Positions that a sequence's blocks hold; what is beyond is not written.
inline int64_t capacity_of(const Attention& a) { return a.max_blocks * a.block_tokens; }

inline void rotate(const Attention& a, int64_t token, float* x) {
  rotate(a.cosine + token * a.rotary, a.sine + token * a.rotary, a.rotary, 1.0f, x);
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
  for (int64_t t = 0; t < a.new_tokens[seq] && a.lengths[seq] + t < capacity_of(a); ++t) {
    const int64_t token = a.starts[seq] + t, row = token * (a.N + 2 * a.K) + a.N + kv;
    load(a.qkv, row * a.H, a.H, x);
    if (a.rotary > 0) rotate(a, token, x);
    store_vector(x, a.H, vector_of<Cached>(a, a.keys, seq, kv, a.lengths[seq] + t));
    load(a.qkv, (row + a.K) * a.H, a.H, x);
    store_vector(x, a.H, vector_of<Cached>(a, a.values, seq, kv, a.lengths[seq] + t));
  }
}

inline void write_any(const Attention& a, int64_t seq, int64_t kv) {
  switch (a.keys.dtype) {
    case kFloat32: return write<float>(a, seq, kv);
    case kBFloat16: return write<uint16_t>(a, seq, kv);
    case kInt8: return write<int8_t>(a, seq, kv);
  }
}

// The positions that a query at this one attends to.
inline int64_t begin_of(const Attention& a, int64_t position) {
  return a.window > 0 && position >= a.window ? position + 1 - a.window : 0;
}
inline int64_t end_of(const Attention& a, int64_t position) {
  return position < capacity_of(a) ? position + 1 : capacity_of(a);
}

// The position of the first of these queries.
inline int64_t position_of(const Attention& a, const Queries& queries) {
  return a.lengths[queries.sequence] + queries.first / (a.N / a.K);
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
  return {token, position, head, begin_of(a, position), end_of(a, position)};
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
  const Cached *next_keys, *next_values;  // of the chunk that is read next; null behind the last
  int64_t next_count;                     // how many of them
  int64_t start, from, to;   // start: a position; from and to are relative to it
  int64_t stride, capacity;  // capacity: vectors from here to the end of the block
};

// What is read next, prefetched into the L2 cache a few lines at a time beside other work: a core has few outstanding
// misses, so that a burst of prefetches waits for memory as loads do.
struct Ahead {
  const char *keys, *values;
  int64_t lines, done;  // of both together

  void fetch(int64_t count) {
    const int64_t half = lines / 2, end = done + count < lines ? done + count : lines;
    for (; done < end; ++done)
      __builtin_prefetch(done < half ? keys + done * kCacheLine : values + (done - half) * kCacheLine, 0, kPrefetchL2);
  }
};

template <typename Cached>
Ahead ahead_of(const Chunk<Cached>& c) {
  const int64_t bytes = c.next_count * c.stride * int64_t(sizeof(Cached));
  const auto at = [](const Cached* first) { return reinterpret_cast<const char*>(first); };
  return {at(c.next_keys), at(c.next_values), 2 * ((bytes + kCacheLine - 1) / kCacheLine), 0};
}

// Chunks start at multiples of kChunk, so that the order of additions does not depend on the window. None spans two
// blocks: these are multiples of it, or there is only one. What is read behind the last is the first of the `next`
// queries, unless null.
template <typename Cached, typename Each>
void each_chunk(const Attention& a, int64_t seq, int64_t kv, int64_t begin, int64_t end, const Queries* next,
                Each each) {
  const int64_t stride = stride_of<Cached>(a), first = begin / kChunk * kChunk;
  const Cached *keys = vector_of<Cached>(a, a.keys, seq, kv, first);
  const Cached *values = vector_of<Cached>(a, a.values, seq, kv, first);
  for (int64_t start = first; start < end; start += kChunk) {
    const int64_t left = end - start;
    const Cached *next_keys = nullptr, *next_values = nullptr;
    int64_t next_count = 0;
    if (left > kChunk) {
      next_count = left - kChunk < kChunk ? left - kChunk : kChunk;
      next_keys = vector_of<Cached>(a, a.keys, seq, kv, start + kChunk);
      next_values = vector_of<Cached>(a, a.values, seq, kv, start + kChunk);
    } else if (next != nullptr && (next->sequence != seq || next->kv_head != kv)) {
      const int64_t from = begin_of(a, position_of(a, *next)) / kChunk * kChunk;
      const int64_t count = end_of(a, position_of(a, *next)) - from;
      if (count > 0) {
        next_count = count < kChunk ? count : kChunk;
        next_keys = vector_of<Cached>(a, a.keys, next->sequence, next->kv_head, from);
        next_values = vector_of<Cached>(a, a.values, next->sequence, next->kv_head, from);
      }
    }
    each(Chunk<Cached>{keys, values, next_keys, next_values, next_count, start, start < begin ? begin - start : 0,
                       left < kChunk ? left : kChunk, stride, a.block_tokens - start % a.block_tokens});
    keys = next_keys, values = next_values;
  }
}

}  // namespace
}  // namespace llm
