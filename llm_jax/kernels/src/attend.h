// Attention of one new token: FlashDecoding's running softmax (arXiv:2205.14135) over fixed chunks of the cache, so
// that a row's result depends on its own length only.
#pragma once

#include "rows.h"

namespace llm {
namespace {

constexpr int64_t kChunk = 64;     // keys at a time; with them their scores and values stay in the nearest cache
constexpr int64_t kMaxHead = 512;  // largest head size
constexpr int64_t kMaxShare = 4;   // query heads that share one pass over the keys

inline void turn(const Attention& a, int64_t b, float* x) {
  const float *cosine = a.cosine + b * a.rotary, *sine = a.sine + b * a.rotary;
  for (int64_t i = 0; i < a.rotary; ++i) {
    const float first = x[i], second = x[i + a.rotary];
    x[i] = first * cosine[i] - second * sine[i];
    x[i + a.rotary] = second * cosine[i] + first * sine[i];
  }
}

template <typename Lanes, typename Cached>
struct Attend {
  using F = typename Lanes::F;

  // score[s] = q · k[s] for `count` keys, four at a time; the last four are filled up with the last key.
  static void dots(const float* q, const Cached* k, int64_t H, int64_t count, float* score) {
    for (int64_t s = 0; s < count; s += 4) {
      F acc[4];
      const Cached* key[4];
      for (int i = 0; i < 4; ++i) {
        acc[i] = Lanes::zero();
        key[i] = k + (s + i < count ? s + i : count - 1) * H;
      }
      for (int64_t h = 0; h < H; h += 16) {
        const F part = Lanes::load(q + h);
        for (int i = 0; i < 4; ++i) acc[i] = Lanes::fma(part, Lanes::load(key[i] + h), acc[i]);
      }
      Lanes::sums(acc[0], acc[1], acc[2], acc[3], score + s);
    }
  }

  // out += Σ weight[s] · v[s], W vectors of 16 at a time
  template <int W>
  static void mix(float* out, const float* weight, const Cached* v, int64_t H, int64_t count) {
    F acc[W];
    for (int i = 0; i < W; ++i) acc[i] = Lanes::load(out + 16 * i);
    for (int64_t s = 0; s < count; ++s) {
      const F w = Lanes::broadcast(weight[s]);
      for (int i = 0; i < W; ++i) acc[i] = Lanes::fma(w, Lanes::load(v + s * H + 16 * i), acc[i]);
    }
    for (int i = 0; i < W; ++i) Lanes::store(out + 16 * i, acc[i]);
  }

  static void put(const Attention& a, int64_t b, int64_t row, const Floats& cache, int64_t at, bool rotated) {
    alignas(64) float x[kMaxHead];
    load(a.qkv, (b * (a.N + 2 * a.K) + row) * a.H, a.H, x);
    if (rotated && a.rotary > 0) turn(a, b, x);
    store(x, a.H, cache, at);
  }

  static void heads(const Attention& a, int64_t b, int64_t kv, int64_t first_head, int64_t count) {
    const int64_t H = a.H, length = a.lengths[b], end = length < a.S ? length + 1 : a.S;
    const int64_t begin = a.window > 0 && length + 1 > a.window ? length + 1 - a.window : 0;
    const Cached* keys = static_cast<const Cached*>(a.keys.data) + (b * a.K + kv) * a.S * H;
    const Cached* values = static_cast<const Cached*>(a.values.data) + (b * a.K + kv) * a.S * H;
    alignas(64) float q[kMaxShare][kMaxHead], out[kMaxShare][kMaxHead], score[kChunk];
    float highest[kMaxShare], total[kMaxShare];
    for (int64_t g = 0; g < count; ++g) {
      load(a.qkv, (b * (a.N + 2 * a.K) + first_head + g) * H, H, q[g]);
      if (a.rotary > 0) turn(a, b, q[g]);
      std::memset(out[g], 0, H * sizeof(float));
      highest[g] = -1e30f;
      total[g] = 0.0f;
    }
    // Chunks start at multiples of kChunk, so that the order of additions does not move with the window.
    for (int64_t start = begin / kChunk * kChunk; start < end; start += kChunk) {
      const int64_t from = start < begin ? begin : start, to = start + kChunk < end ? start + kChunk : end;
      const int64_t n = to - from;
      for (int64_t g = 0; g < count; ++g) {
        dots(q[g], keys + from * H, H, n, score);
        for (int64_t s = 0; s < n; ++s) score[s] *= a.scale;
        if (a.softcap > 0.0f)
          for (int64_t s = 0; s < n; ++s) score[s] = a.softcap * hyperbolic_tangent(score[s] / a.softcap);
        if (a.slopes != nullptr) {
          const float slope = a.slopes[first_head + g];
          for (int64_t s = 0; s < n; ++s) score[s] -= slope * float(length - from - s);
        }
        float top = highest[g];
        for (int64_t s = 0; s < n; ++s) top = score[s] > top ? score[s] : top;
        for (int64_t s = 0; s < n; ++s) score[s] = exponential(score[s] - top);
        const float shrink = exponential(highest[g] - top);
        total[g] = total[g] * shrink + sum(n, [&](int64_t s) { return score[s]; });
        highest[g] = top;
        if (shrink != 1.0f)
          for (int64_t h = 0; h < H; ++h) out[g][h] *= shrink;
        int64_t h = 0;
        for (; h + 64 <= H; h += 64) mix<4>(out[g] + h, score, values + from * H + h, H, n);
        for (; h < H; h += 16) mix<1>(out[g] + h, score, values + from * H + h, H, n);
      }
    }
    for (int64_t g = 0; g < count; ++g) {
      const float inverse = 1.0f / total[g];
      for (int64_t h = 0; h < H; ++h) out[g][h] *= inverse;
      store(out[g], H, a.out, (b * a.N + first_head + g) * H);
    }
  }

  static void run(const Attention& a, int64_t b, int64_t kv) {
    const int64_t share = a.N / a.K, length = a.lengths[b];
    if (length < a.S) {
      const int64_t at = ((b * a.K + kv) * a.S + length) * a.H;
      put(a, b, a.N + kv, a.keys, at, true);
      put(a, b, a.N + a.K + kv, a.values, at, false);
    }
    for (int64_t g = 0; g < share; g += kMaxShare)
      heads(a, b, kv, kv * share + g, share - g < kMaxShare ? share - g : kMaxShare);
  }
};

template <typename Lanes>
void attend(const Attention& a, int64_t b, int64_t kv) {
  if (a.active[b]) {
    a.keys.narrow ? Attend<Lanes, uint16_t>::run(a, b, kv) : Attend<Lanes, float>::run(a, b, kv);
    return;
  }
  const float nothing[16] = {};  // an idle row costs nothing and gives zeros
  const int64_t share = a.N / a.K;
  for (int64_t h = 0; h < share * a.H; h += 16) store(nothing, 16, a.out, (b * a.N + kv * share) * a.H + h);
}

}  // namespace
}  // namespace llm
