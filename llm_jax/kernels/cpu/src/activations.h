// Activation functions, and the elementary functions that they and attention are made of. Plain loops that the compiler
// vectorises; every level includes this file.
#pragma once

#include <cstdint>
#include <cstring>

namespace llm {

// In the order of ACTIVATIONS in kernels/xla/functions.py.
enum Activation : int64_t { kNone, kSilu, kGeluTanh, kGelu, kRelu, kRelu2, kTanh, kSigmoid };

namespace {

constexpr float kRounder = 12582912.0f;  // 1.5 · 2^23: x + kRounder has the integer nearest to x in its low bits
constexpr uint32_t kRounderBits = 0x4b400000u;
constexpr float kLog2E = 1.44269504f;

inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// e^x within 2e-7 relative for x <= 88; 0 below -87. Range reduction by powers of two, then a Taylor polynomial.
inline float exponential(float x) {
  float clipped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float power = clipped * kLog2E + kRounder;
  float whole = power - kRounder;
  float r = (clipped - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  float scaled = p * float_of((bits_of(power) - kRounderBits + 127u) << 23);
  return x < -87.0f ? 0.0f : scaled;
}

inline float hyperbolic_tangent(float x) {
  float clipped = x < -20.0f ? -20.0f : (x > 20.0f ? 20.0f : x);
  float e = exponential(2.0f * clipped);
  return (e - 1.0f) / (e + 1.0f);
}

// Within 2e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26.
inline float error_function(float x) {
  const float size = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.3275911f * size);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float y = 1.0f - p * t * exponential(-size * size);
  return x < 0.0f ? -y : y;
}

inline void activate(Activation activation, float* x, int64_t count) {
  switch (activation) {
    case kSilu:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] / (1.0f + exponential(-x[i]));
      break;
    case kGeluTanh:
      for (int64_t i = 0; i < count; ++i) {
        float inner = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = 0.5f * x[i] * (1.0f + hyperbolic_tangent(inner));
      }
      break;
    case kGelu:
      for (int64_t i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + error_function(x[i] * 0.70710678f));
      break;
    case kRelu:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] > 0.0f ? x[i] : 0.0f;
      break;
    case kRelu2:
      for (int64_t i = 0; i < count; ++i) x[i] = x[i] > 0.0f ? x[i] * x[i] : 0.0f;
      break;
    case kTanh:
      for (int64_t i = 0; i < count; ++i) x[i] = hyperbolic_tangent(x[i]);
      break;
    case kSigmoid:
      for (int64_t i = 0; i < count; ++i) x[i] = 1.0f / (1.0f + exponential(-x[i]));
      break;
    case kNone:
      break;
  }
}

}  // namespace
}  // namespace llm
