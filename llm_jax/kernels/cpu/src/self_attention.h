// Attention of a sequence's tokens over each other, and its gradient (FlashAttention-2, arXiv:2307.08691).
//
// A block of queries lies in the lanes of vectors, a row of scores for each key: only queries are transposed, and a
// softmax goes down its lane. Pairs of blocks in which nothing may attend are left out, by bounds of their positions.
// Rotary positions are applied as vectors are read, and undone as their gradients are written.
#pragma once

#include <cmath>
#include <utility>

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kSquare = kChunk * kChunk;  // pairs of a block of keys and one of queries

// What the tokens of a block have in common: bounds of their positions and of their segments.
struct Bounds {
  int32_t low, high, first, last;
};

enum Meeting { kNothing, kSome, kAll };

// Where a task keeps what it works on, of `self_attention_floats`. What begins with `of_` is a gradient, and there for
// the gradient alone.
struct Blocks {
  float *keys, *values, *of_keys, *of_values;              // [T, H]; keys are rotated
  float *q_rows, *of_out_rows;                             // [64, H]; queries are rotated
  float *q_lanes, *out_lanes, *of_out_lanes, *of_q_lanes;  // [H, 64]
  float *score, *slope, *of_score;                         // [64, 64]

  Blocks(const SelfAttention& a, bool is_gradient, float* memory) {
    const auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    keys = take(a.T * a.H), values = take(a.T * a.H);
    q_rows = take(kChunk * a.H), q_lanes = take(kChunk * a.H), out_lanes = take(kChunk * a.H);
    score = take(kSquare), slope = take(kSquare);
    if (!is_gradient) return;
    of_keys = take(a.T * a.H), of_values = take(a.T * a.H);
    of_out_rows = take(kChunk * a.H), of_out_lanes = take(kChunk * a.H), of_q_lanes = take(kChunk * a.H);
    of_score = take(kSquare);
  }
};

// A block of queries of one head, a lane each; lanes beyond `count` are computed and mean nothing.
struct QueryLanes {
  int64_t head, start, count;
  Bounds bounds;
  alignas(64) int32_t position[kChunk], segment[kChunk];
};

inline int64_t tokens_of(const SelfAttention& a, int64_t block) {
  return a.T - block * kChunk < kChunk ? a.T - block * kChunk : kChunk;
}

inline int32_t segment_of(const SelfAttention& a, int64_t token) { return a.segment == nullptr ? 0 : a.segment[token]; }

inline Bounds bounds_of(const SelfAttention& a, int64_t b, int64_t block) {
  const int64_t token = b * a.T + block * kChunk;
  Bounds bounds{a.position[token], a.position[token], segment_of(a, token), segment_of(a, token)};
  for (int64_t i = 1; i < tokens_of(a, block); ++i) {
    const int32_t position = a.position[token + i], segment = segment_of(a, token + i);
    bounds.low = position < bounds.low ? position : bounds.low;
    bounds.high = position > bounds.high ? position : bounds.high;
    bounds.first = segment < bounds.first ? segment : bounds.first;
    bounds.last = segment > bounds.last ? segment : bounds.last;
  }
  return bounds;
}

// Distances from key to query within which a query attends.
inline int32_t nearest(const SelfAttention& a) { return a.is_causal ? 0 : a.window > 0 ? 1 - a.window : INT32_MIN; }
inline int32_t furthest(const SelfAttention& a) { return a.window > 0 ? a.window - 1 : INT32_MAX; }

// Of a block of queries and one of keys, by their bounds: kSome may be nothing at a closer look.
inline Meeting meeting(const SelfAttention& a, const Bounds& q, const Bounds& k) {
  const int64_t least = int64_t(q.low) - k.high, most = int64_t(q.high) - k.low;
  if (most < nearest(a) || least > furthest(a) || q.first > k.last || k.first > q.last) return kNothing;
  const bool is_one = q.first == q.last && k.first == k.last;
  return is_one && least >= nearest(a) && most <= furthest(a) ? kAll : kSome;
}

// The vector of a head: of queries, keys or values as they follow each other in `qkv`.
inline void read_head(const SelfAttention& a, int64_t token, int64_t head, float* to) {
  load(a.qkv, (token * (a.N + 2 * a.K) + head) * a.H, a.H, to);
  if (a.rotary > 0 && head < a.N + a.K)
    rotate(a.cosine + token * a.rotary, a.sine + token * a.rotary, a.rotary, 1.0f, to);
}

// The gradient of what `read_head` reads.
inline void write_head_gradient(const SelfAttention& a, int64_t token, int64_t head, float* from) {
  if (a.rotary > 0 && head < a.N + a.K)
    rotate(a.cosine + token * a.rotary, a.sine + token * a.rotary, a.rotary, -1.0f, from);
  store(from, a.H, a.of_qkv, (token * (a.N + 2 * a.K) + head) * a.H);
}

// c[m][n] += Σ_k a[m · row + k · column] · b[k][n], for `Rows` rows and `Vecs` vectors of 16 columns.
template <typename Lanes, int Rows, int Vecs>
void product_tile(const float* a, int64_t row, int64_t column, const float* b, int64_t b_row, int64_t depth,
                  bool is_first, float* c, int64_t c_row) {
  using Vec = typename Lanes::Vec;
  Vec sums[Rows][Vecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v)
      sums[r][v] = is_first ? Lanes::broadcast(0.0f) : Lanes::load(c + r * c_row + 16 * v);
  for (int64_t k = 0; k < depth; ++k, a += column, b += b_row) {
    Vec x[Vecs];
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) x[v] = Lanes::load(b + 16 * v);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const Vec term = Lanes::broadcast(a[r * row]);
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) sums[r][v] = Lanes::fma(term, x[v], sums[r][v]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) Lanes::store(c + r * c_row + 16 * v, sums[r][v]);
}

template <typename Lanes, int Vecs, std::size_t... Rows>
void product_columns(int64_t M, const float* a, int64_t row, int64_t column, const float* b, int64_t b_row,
                     int64_t depth, bool is_first, float* c, int64_t c_row, std::index_sequence<Rows...>) {
  using Tile = void (*)(const float*, int64_t, int64_t, const float*, int64_t, int64_t, bool, float*, int64_t);
  static constexpr Tile tiles[] = {product_tile<Lanes, Rows + 1, Vecs>...};  // by the number of rows - 1
  constexpr int64_t kRows = sizeof...(Rows);
  for (int64_t m = 0; m < M; m += kRows) {
    const int64_t rows = M - m < kRows ? M - m : kRows;
    tiles[rows - 1](a + m * row, row, column, b, b_row, depth, is_first, c + m * c_row, c_row);
  }
}

// A product of any number of rows with N columns, a multiple of 16, that follow each other in b and c.
template <typename Lanes>
void add_product(int64_t M, int64_t N, const float* a, int64_t row, int64_t column, const float* b, int64_t b_row,
                 int64_t depth, bool is_first, float* c, int64_t c_row) {
  constexpr int64_t kWidth = 16 * Lanes::kTileVecs;
  const std::make_index_sequence<Lanes::kTileRows> rows;
  int64_t n = 0;
  for (; n + kWidth <= N; n += kWidth)
    product_columns<Lanes, Lanes::kTileVecs>(M, a, row, column, b + n, b_row, depth, is_first, c + n, c_row, rows);
  for (; n < N; n += 16) product_columns<Lanes, 1>(M, a, row, column, b + n, b_row, depth, is_first, c + n, c_row, rows);
}

// Products of one key with the lanes as scores. `slope` gets the derivative of the soft cap, where there is one.
inline void score_lanes(const SelfAttention& a, const QueryLanes& q, int64_t key, Meeting meeting, float* x,
                        float* slope) {
  for (int i = 0; i < kChunk; ++i) x[i] *= a.scale;
  if (a.softcap > 0.0f)
    for (int i = 0; i < kChunk; ++i) {
      const float bounded = hyperbolic_tangent(x[i] / a.softcap);
      x[i] = a.softcap * bounded, slope[i] = 1.0f - bounded * bounded;
    }
  const int32_t position = a.position[key];
  if (a.slopes != nullptr) {
    const float factor = a.slopes[q.head];
    for (int i = 0; i < kChunk; ++i) x[i] -= factor * std::fabs(float(q.position[i] - position));
  }
  if (meeting == kAll) return;
  const int32_t segment = segment_of(a, key), least = nearest(a), most = furthest(a);
  for (int i = 0; i < kChunk; ++i) {
    const int32_t distance = q.position[i] - position;
    const bool attends = (distance >= least) & (distance <= most) & (q.segment[i] == segment);
    x[i] = attends ? x[i] : -__builtin_inff();
  }
}

// [count, H] as [H, 64].
inline void to_lanes(const float* rows, int64_t count, int64_t H, float* lanes) {
  if (count < kChunk) std::memset(lanes, 0, H * kChunk * sizeof(float));
  for (int64_t from = 0; from < count; from += kTile)
    for (int64_t h = 0; h < H; h += kTile)
      for (int64_t j = 0; j < kTile; ++j)
        for (int64_t i = from; i < from + kTile && i < count; ++i) lanes[(h + j) * kChunk + i] = rows[i * H + h + j];
}

inline void from_lanes(const float* lanes, int64_t lane, int64_t H, float* row) {
  for (int64_t h = 0; h < H; ++h) row[h] = lanes[h * kChunk + lane];
}

inline QueryLanes query_lanes(const SelfAttention& a, int64_t b, int64_t head, int64_t block) {
  QueryLanes q{head, block * kChunk, tokens_of(a, block), bounds_of(a, b, block), {}, {}};
  for (int64_t i = 0; i < kChunk; ++i) {
    const int64_t token = b * a.T + q.start + (i < q.count ? i : q.count - 1);
    q.position[i] = a.position[token], q.segment[i] = segment_of(a, token);
  }
  return q;
}

inline void read_keys(const SelfAttention& a, int64_t b, int64_t kv, const Blocks& blocks) {
  for (int64_t t = 0; t < a.T; ++t) {
    read_head(a, b * a.T + t, a.N + kv, blocks.keys + t * a.H);
    read_head(a, b * a.T + t, a.N + a.K + kv, blocks.values + t * a.H);
  }
}

// Adds a block of keys to the softmax of each lane: its highest score so far, the sum of weights, the weighted values.
template <typename Lanes>
void attend_block(const SelfAttention& a, const QueryLanes& q, int64_t key, int64_t start, int64_t count,
                  Meeting meeting, const Blocks& blocks, float* highest, float* sum) {
  const int64_t H = a.H;
  float* score = blocks.score;
  add_product<Lanes>(count, kChunk, blocks.keys + start * H, H, 1, blocks.q_lanes, kChunk, H, true, score, kChunk);
  alignas(64) float top[kChunk], shrink[kChunk];
  copy(highest, kChunk, top);
  for (int64_t s = 0; s < count; ++s) {
    float* x = score + s * kChunk;
    score_lanes(a, q, key + s, meeting, x, blocks.slope);
    for (int i = 0; i < kChunk; ++i) top[i] = x[i] > top[i] ? x[i] : top[i];
  }
  for (int i = 0; i < kChunk; ++i) shrink[i] = exponential(highest[i] - top[i]), sum[i] *= shrink[i];
  copy(top, kChunk, highest);
  for (int64_t s = 0; s < count; ++s) {
    float* x = score + s * kChunk;
    for (int i = 0; i < kChunk; ++i) x[i] = exponential(x[i] - top[i]), sum[i] += x[i];
  }
  for (int64_t h = 0; h < H; ++h)
    for (int i = 0; i < kChunk; ++i) blocks.out_lanes[h * kChunk + i] *= shrink[i];
  add_product<Lanes>(H, kChunk, blocks.values + start * H, 1, H, score, kChunk, count, false, blocks.out_lanes, kChunk);
}

// Queries of blocks first … last - 1, of all heads that share a key/value head.
template <typename Lanes>
void self_attend(const SelfAttention& a, int64_t b, int64_t kv, int64_t first, int64_t last, float* memory) {
  const int64_t H = a.H, G = a.N / a.K, count = (a.T + kChunk - 1) / kChunk;
  const Blocks blocks(a, false, memory);
  read_keys(a, b, kv, blocks);
  alignas(64) float row[kMaxHead], highest[kChunk], sum[kChunk];
  for (int64_t head = kv * G; head < (kv + 1) * G; ++head)
    for (int64_t block = first; block < last; ++block) {
      const QueryLanes q = query_lanes(a, b, head, block);
      const int64_t token = b * a.T + q.start;
      for (int64_t i = 0; i < q.count; ++i) read_head(a, token + i, head, blocks.q_rows + i * H);
      to_lanes(blocks.q_rows, q.count, H, blocks.q_lanes);
      std::memset(blocks.out_lanes, 0, H * kChunk * sizeof(float));
      for (int i = 0; i < kChunk; ++i) {
        highest[i] = a.sinks == nullptr ? kLowest : a.sinks[head];
        sum[i] = a.sinks == nullptr ? 0.0f : 1.0f;
      }
      for (int64_t other = 0; other < count; ++other) {
        const Meeting met = meeting(a, q.bounds, bounds_of(a, b, other));
        const int64_t start = other * kChunk;
        if (met != kNothing)
          attend_block<Lanes>(a, q, b * a.T + start, start, tokens_of(a, other), met, blocks, highest, sum);
      }
      for (int64_t h = 0; h < H; ++h)
        for (int i = 0; i < kChunk; ++i) blocks.out_lanes[h * kChunk + i] /= sum[i];
      for (int64_t i = 0; i < q.count; ++i) {
        from_lanes(blocks.out_lanes, i, H, row);
        store(row, H, a.out, ((token + i) * a.N + head) * H);
        a.logsumexp[(b * a.N + head) * a.T + q.start + i] = highest[i] + std::log(sum[i]);
      }
    }
}

// Adds what a block of keys and one of queries contribute to each other's gradients.
template <typename Lanes>
void gradient_block(const SelfAttention& a, const QueryLanes& q, int64_t key, int64_t start, int64_t count,
                    Meeting meeting, const Blocks& blocks, const float* logsumexp, const float* mean) {
  const int64_t H = a.H;
  float *weight = blocks.score, *of_score = blocks.of_score;
  const float *keys = blocks.keys + start * H, *values = blocks.values + start * H;
  add_product<Lanes>(count, kChunk, keys, H, 1, blocks.q_lanes, kChunk, H, true, weight, kChunk);
  add_product<Lanes>(count, kChunk, values, H, 1, blocks.of_out_lanes, kChunk, H, true, of_score, kChunk);
  for (int64_t s = 0; s < count; ++s) {
    float *x = weight + s * kChunk, *of_x = of_score + s * kChunk, *slope = blocks.slope;
    score_lanes(a, q, key + s, meeting, x, slope);
    for (int i = 0; i < kChunk; ++i) {
      x[i] = exponential(x[i] - logsumexp[i]);
      of_x[i] = x[i] * (of_x[i] - mean[i]) * a.scale;
    }
    if (a.softcap > 0.0f)
      for (int i = 0; i < kChunk; ++i) of_x[i] *= slope[i];
  }
  float *of_keys = blocks.of_keys + start * H, *of_values = blocks.of_values + start * H;
  add_product<Lanes>(count, H, weight, kChunk, 1, blocks.of_out_rows, H, q.count, false, of_values, H);
  add_product<Lanes>(count, H, of_score, kChunk, 1, blocks.q_rows, H, q.count, false, of_keys, H);
  add_product<Lanes>(H, kChunk, keys, 1, H, of_score, kChunk, count, false, blocks.of_q_lanes, kChunk);
}

// The gradients of the queries, keys and values of all heads that share a key/value head.
template <typename Lanes>
void self_attention_gradient(const SelfAttention& a, int64_t b, int64_t kv, float* memory) {
  const int64_t H = a.H, G = a.N / a.K, count = (a.T + kChunk - 1) / kChunk;
  const Blocks blocks(a, true, memory);
  read_keys(a, b, kv, blocks);
  std::memset(blocks.of_keys, 0, a.T * H * sizeof(float));
  std::memset(blocks.of_values, 0, a.T * H * sizeof(float));
  alignas(64) float row[kMaxHead], logsumexp[kChunk] = {}, mean[kChunk] = {};
  for (int64_t head = kv * G; head < (kv + 1) * G; ++head)
    for (int64_t block = 0; block < count; ++block) {
      const QueryLanes q = query_lanes(a, b, head, block);
      const int64_t token = b * a.T + q.start, statistics = (b * a.N + head) * a.T + q.start;
      for (int64_t i = 0; i < q.count; ++i) {
        read_head(a, token + i, head, blocks.q_rows + i * H);
        const int64_t at = ((token + i) * a.N + head) * H;
        float* of_out = blocks.of_out_rows + i * H;
        load(a.of_out, at, H, of_out);
        load(a.out, at, H, row);
        mean[i] = llm::sum(H, [&](int64_t h) { return row[h] * of_out[h]; });
        logsumexp[i] = a.logsumexp[statistics + i], a.mean[statistics + i] = mean[i];
      }
      to_lanes(blocks.q_rows, q.count, H, blocks.q_lanes);
      to_lanes(blocks.of_out_rows, q.count, H, blocks.of_out_lanes);
      std::memset(blocks.of_q_lanes, 0, H * kChunk * sizeof(float));
      for (int64_t other = 0; other < count; ++other) {
        const Meeting met = meeting(a, q.bounds, bounds_of(a, b, other));
        const int64_t start = other * kChunk;
        if (met != kNothing)
          gradient_block<Lanes>(a, q, b * a.T + start, start, tokens_of(a, other), met, blocks, logsumexp, mean);
      }
      for (int64_t i = 0; i < q.count; ++i) {
        from_lanes(blocks.of_q_lanes, i, H, row);
        write_head_gradient(a, token + i, head, row);
      }
    }
  for (int64_t t = 0; t < a.T; ++t) {
    write_head_gradient(a, b * a.T + t, a.N + kv, blocks.of_keys + t * H);
    write_head_gradient(a, b * a.T + t, a.N + a.K + kv, blocks.of_values + t * H);
  }
}

}  // namespace
}  // namespace llm
