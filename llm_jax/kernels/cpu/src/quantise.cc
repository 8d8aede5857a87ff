// Quantises rows of float32 into the blocks of GGUF files, with an importance for each input where one is known.
#include <cmath>
#include <cstring>

#include "blocks.h"
#include "parallel.h"
#include "rows.h"

namespace llm {
namespace {

// float16, rounded to the nearest.
uint16_t to_half(float x) {
  const uint32_t sign = bits_of(x) >> 16 & 0x8000;
  x = std::fabs(x);
  if (!(x < 65520.0f)) return uint16_t(sign | (x != x ? 0x7e00 : 0x7c00));
  if (x < 6.103515625e-05f) return uint16_t(sign | uint32_t(std::nearbyint(x * 16777216.0f)));  // subnormal: 2^-24 each
  const uint32_t bits = bits_of(x), rounded = bits + 0xfff + (bits >> 13 & 1);
  return uint16_t(sign | ((rounded >> 13) - (112 << 10)));
}

float from_half(uint16_t h) {
  const uint32_t exponent = h >> 10 & 31, fraction = h & 1023;
  const float value = exponent == 0 ? float(fraction) * 5.9604644775390625e-08f
                                    : float_of((exponent + 112) << 23 | fraction << 13);
  return h & 0x8000 ? -value : value;
}

void put_half(uint8_t* to, uint16_t h) { to[0] = uint8_t(h), to[1] = uint8_t(h >> 8); }

int nearest(float x) { return int(bits_of(x + kRounder) & 0x007fffff) - 0x00400000; }

int limited(int x, int low, int high) { return x < low ? low : x > high ? high : x; }

// The scale d that minimises Σ w (x - d q)², q integers from -top to top - 1 (to top, where `symmetric`), and q.
float best_scale(const float* x, const float* w, int n, int top, bool symmetric, int8_t* q) {
  float largest = 0.0f;
  for (int i = 0; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  const int high = symmetric ? top : top - 1;
  std::memset(q, 0, n);
  if (std::fabs(largest) < 1e-30f) return 0.0f;
  float best = -1.0f, best_d = 0.0f;
  // The value that is largest gets about -top: candidates shift it by up to 0.9 steps, on either side of zero.
  for (int sign = -1; sign <= 1; sign += 2)
    for (int step = -9; step <= 9; ++step) {
      const float inverse = float(sign) * (float(top) + 0.1f * float(step)) / largest;
      float xq = 0.0f, qq = 0.0f;
      for (int i = 0; i < n; ++i) {
        const float l = float(limited(nearest(x[i] * inverse), -top, high));
        xq += w[i] * x[i] * l, qq += w[i] * l * l;
      }
      if (qq > 0.0f && xq * xq > best * qq) best = xq * xq / qq, best_d = xq / qq;
    }
  const float inverse = best_d != 0.0f ? 1.0f / best_d : 0.0f;
  for (int i = 0; i < n; ++i) q[i] = int8_t(limited(nearest(x[i] * inverse), -top, high));
  return best_d;
}

// The scale and minimum that minimise Σ w (x - d q - m)² for q from 0 to top, m at most 0 where `below`.
float best_line(const float* x, const float* w, int n, int top, bool below, float& minimum) {
  float low = x[0], high = x[0], weight = 0.0f, wx = 0.0f;
  for (int i = 0; i < n; ++i) {
    low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
    weight += w[i], wx += w[i] * x[i];
  }
  if (below && low > 0.0f) low = 0.0f;
  minimum = low;
  if (!(high > low)) return 0.0f;
  const auto error_of = [&](float d, float m) {
    float error = 0.0f;
    const float inverse = 1.0f / d;
    for (int i = 0; i < n; ++i) {
      const float off = x[i] - d * float(limited(nearest((x[i] - m) * inverse), 0, top)) - m;
      error += w[i] * off * off;
    }
    return error;
  };
  float best_d = (high - low) / float(top), best = error_of(best_d, low);
  for (int step = -10; step <= 10; ++step) {
    const float inverse = (float(top) + 0.1f * float(step)) / (high - low);
    float wq = 0.0f, wqq = 0.0f, wxq = 0.0f;
    for (int i = 0; i < n; ++i) {
      const float l = float(limited(nearest((x[i] - low) * inverse), 0, top));
      wq += w[i] * l, wqq += w[i] * l * l, wxq += w[i] * x[i] * l;
    }
    const float determinant = weight * wqq - wq * wq;
    if (!(determinant > 0.0f)) continue;
    float d = (weight * wxq - wx * wq) / determinant, m = (wqq * wx - wq * wxq) / determinant;
    if (below && m > 0.0f) m = 0.0f, d = wxq / wqq;
    if (!(d > 0.0f)) continue;
    const float error = error_of(d, m);
    if (error < best) best = error, best_d = d, minimum = m;
  }
  return best_d;
}

void put_nibbles(const uint8_t* values, uint8_t* to) {
  for (int k = 0; k < 16; ++k) to[k] = uint8_t(values[k] | values[k + 16] << 4);
}

void quantise_q4_0(const float* x, const float* w, uint8_t* to) {
  int8_t q[kGroup];
  uint8_t values[kGroup];
  const uint16_t d = to_half(best_scale(x, w, kGroup, 8, false, q));
  const float scale = from_half(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  for (int i = 0; i < kGroup; ++i) values[i] = uint8_t(limited(nearest(x[i] * inverse), -8, 7) + 8);
  put_half(to, d), put_nibbles(values, to + 2);
}

void quantise_q5_0(const float* x, const float* w, uint8_t* to) {
  int8_t q[kGroup];
  uint8_t values[kGroup];
  const uint16_t d = to_half(best_scale(x, w, kGroup, 16, false, q));
  const float scale = from_half(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  uint32_t fifth = 0;
  for (int i = 0; i < kGroup; ++i) {
    const int level = limited(nearest(x[i] * inverse), -16, 15) + 16;
    values[i] = uint8_t(level & 15), fifth |= uint32_t(level >> 4) << i;
  }
  put_half(to, d), std::memcpy(to + 2, &fifth, 4), put_nibbles(values, to + 6);
}

void quantise_q4_1(const float* x, const float* w, uint8_t* to) {
  float m;
  const uint16_t d = to_half(best_line(x, w, kGroup, 15, false, m)), minimum = to_half(m);
  const float scale = from_half(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  uint8_t values[kGroup];
  for (int i = 0; i < kGroup; ++i) values[i] = uint8_t(limited(nearest((x[i] - from_half(minimum)) * inverse), 0, 15));
  put_half(to, d), put_half(to + 2, minimum), put_nibbles(values, to + 4);
}

void quantise_q8_0(const float* x, const float*, uint8_t* to) {
  float amax = 0.0f;
  for (int i = 0; i < kGroup; ++i) amax = std::fabs(x[i]) > amax ? std::fabs(x[i]) : amax;
  const uint16_t d = to_half(amax / kInt8Max);
  const float scale = from_half(d), inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
  put_half(to, d);
  for (int i = 0; i < kGroup; ++i) to[2 + i] = uint8_t(int8_t(limited(nearest(x[i] * inverse), -127, 127)));
}

void quantise_q4_k(const float* x, const float* w, uint8_t* to) {
  float scale[8], minimum[8], top_scale = 0.0f, top_minimum = 0.0f;
  for (int g = 0; g < 8; ++g) {
    scale[g] = best_line(x + g * kGroup, w + g * kGroup, kGroup, 15, true, minimum[g]);
    minimum[g] = -minimum[g];
    top_scale = std::fmax(top_scale, scale[g]), top_minimum = std::fmax(top_minimum, minimum[g]);
  }
  const uint16_t d = to_half(top_scale / 63.0f), least = to_half(top_minimum / 63.0f);
  const float ds = from_half(d), dm = from_half(least);
  std::memset(to, 0, 144);
  put_half(to, d), put_half(to + 2, least);
  uint8_t values[256];
  for (int g = 0; g < 8; ++g) {
    const int s = ds > 0.0f ? limited(nearest(scale[g] / ds), 0, 63) : 0;
    const int m = dm > 0.0f ? limited(nearest(minimum[g] / dm), 0, 63) : 0;
    uint8_t* packed = to + 4;
    if (g < 4) {
      packed[g] |= uint8_t(s), packed[g + 4] |= uint8_t(m);
    } else {
      packed[g + 4] |= uint8_t((s & 15) | (m & 15) << 4);
      packed[g - 4] |= uint8_t(s >> 4 << 6), packed[g] |= uint8_t(m >> 4 << 6);
    }
    const float step = ds * float(s), inverse = step > 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < kGroup; ++i)
      values[g * kGroup + i] = uint8_t(limited(nearest((x[g * kGroup + i] + dm * float(m)) * inverse), 0, 15));
  }
  for (int pair = 0; pair < 4; ++pair)
    for (int k = 0; k < kGroup; ++k)
      to[16 + pair * kGroup + k] = uint8_t(values[pair * 64 + k] | values[pair * 64 + kGroup + k] << 4);
}

void quantise_q6_k(const float* x, const float* w, uint8_t* to) {
  float scale[16], top = 0.0f;
  int8_t q[16];
  for (int g = 0; g < 16; ++g) {
    scale[g] = best_scale(x + g * 16, w + g * 16, 16, 32, false, q);
    if (std::fabs(scale[g]) > std::fabs(top)) top = scale[g];
  }
  const uint16_t d = to_half(top / -128.0f);
  const float factor = from_half(d);
  std::memset(to, 0, 210);
  put_half(to + 208, d);
  uint8_t values[256];
  for (int g = 0; g < 16; ++g) {
    const int s = factor != 0.0f ? limited(nearest(scale[g] / factor), -128, 127) : 0;
    to[192 + g] = uint8_t(int8_t(s));
    const float step = factor * float(s), inverse = step != 0.0f ? 1.0f / step : 0.0f;
    for (int i = 0; i < 16; ++i) values[g * 16 + i] = uint8_t(limited(nearest(x[g * 16 + i] * inverse), -32, 31) + 32);
  }
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < kGroup; ++k) {
      const uint8_t* v = values + half * 128 + k;
      to[half * 64 + k] = uint8_t((v[0] & 15) | (v[64] & 15) << 4);
      to[half * 64 + kGroup + k] = uint8_t((v[32] & 15) | (v[96] & 15) << 4);
      to[128 + half * kGroup + k] = uint8_t(v[0] >> 4 | v[32] >> 4 << 2 | v[64] >> 4 << 4 | v[96] >> 4 << 6);
    }
}

}  // namespace
}  // namespace llm

// Quantises rows [O, I] of whole blocks to Q4_0, Q4_1, Q5_0, Q8_0, Q4_K or Q6_K on so many threads; false for other formats.
// `importance` is [I], or null: then a value counts the more the larger it is.
extern "C" bool llm_quantise(int64_t format, const float* x, int64_t O, int64_t I, const float* importance, uint8_t* to,
                             int64_t threads) {
  using namespace llm;
  const Format f = Format(format);
  void (*quantise)(const float*, const float*, uint8_t*) = f == kQ4_0   ? quantise_q4_0
                                                           : f == kQ4_1 ? quantise_q4_1
                                                           : f == kQ5_0 ? quantise_q5_0
                                                           : f == kQ8_0 ? quantise_q8_0
                                                           : f == kQ4_K ? quantise_q4_k
                                                           : f == kQ6_K ? quantise_q6_k
                                                                        : nullptr;
  if (quantise == nullptr) return false;
  const int64_t values = block_values(f), bytes = block_bytes(f);
  parallel_on_workers(threads, O, [&](int64_t row) {
    float weight[256];
    for (int64_t block = 0; block < I / values; ++block) {
      const float* from = x + row * I + block * values;
      float squares = 0.0f;
      for (int64_t i = 0; i < values; ++i) squares += from[i] * from[i];
      const float mean = squares / float(values);
      for (int64_t i = 0; i < values; ++i) {
        const float size = std::sqrt(mean + from[i] * from[i]);
        weight[i] = importance != nullptr ? importance[block * values + i] * size : std::sqrt(mean) + std::fabs(from[i]);
      }
      quantise(from, weight, to + (row * (I / values) + block) * bytes);
    }
  });
  return true;
}
