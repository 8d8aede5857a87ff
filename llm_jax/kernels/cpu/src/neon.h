// Vectors of NEON, shared by the levels of aarch64; only int8 differs (neon.cc, dotprod.cc).
#pragma once

#include <arm_neon.h>

#include "level_functions.h"

namespace llm {
namespace {

struct Lanes {
  static constexpr int kQueries = 2, kSums = 4, kTileRows = 6, kTileVecs = 1;
  struct Vec {
    float32x4_t part[4];
  };
  using Partial = float32x4_t;
  static Partial zero() { return vdupq_n_f32(0.0f); }
  static Vec broadcast(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
  static Vec load(const float* x) { return {vld1q_f32(x), vld1q_f32(x + 4), vld1q_f32(x + 8), vld1q_f32(x + 12)}; }
  static float32x4_t widen(uint16x4_t x) { return vreinterpretq_f32_u32(vshll_n_u16(x, 16)); }
  static Vec load(const uint16_t* x) {
    const uint16x8_t low = vld1q_u16(x), high = vld1q_u16(x + 8);
    return {widen(vget_low_u16(low)), widen(vget_high_u16(low)), widen(vget_low_u16(high)), widen(vget_high_u16(high))};
  }
  static float32x4_t widen(int16x4_t x) { return vcvtq_f32_s32(vmovl_s16(x)); }
  static Vec load(const int8_t* x) {
    const int8x16_t bytes = vld1q_s8(x);
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {widen(vget_low_s16(low)), widen(vget_high_s16(low)), widen(vget_low_s16(high)), widen(vget_high_s16(high))};
  }
  static void store(float* to, Vec x) {
    for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, x.part[i]);
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    for (int i = 0; i < 4; ++i) c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
    return c;
  }
  static Partial dot(Vec a, Vec b, Partial c) {
    for (int i = 0; i < 4; ++i) c = vfmaq_f32(c, a.part[i], b.part[i]);
    return c;
  }
  static void sums(Partial a, Partial b, Partial c, Partial d, float* to) {
    vst1q_f32(to, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
  }
};

// Two registers: half a group of weights.
struct Float32 {
  struct Vec {
    float32x4_t low, high;
  };
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
  static Vec load(const void* from) {
    const float* x = static_cast<const float*>(from);
    return {vld1q_f32(x), vld1q_f32(x + 4)};
  }
  static void store(void* to, Vec x) {
    vst1q_f32(static_cast<float*>(to), x.low);
    vst1q_f32(static_cast<float*>(to) + 4, x.high);
  }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) {
    const float32x4_t term = vld1q_dup_f32(reinterpret_cast<const float*>(x));
    return {term, term};
  }
  static Vec add(Vec acc, Vec w, Vec x) { return {vfmaq_f32(acc.low, w.low, x.low), vfmaq_f32(acc.high, w.high, x.high)}; }
};

struct BFloat16 : Float32 {
  static constexpr int kRowBytes = 128, kParts = 2;
  static float32x4_t widen(uint32x4_t pairs, int part) {
    return vreinterpretq_f32_u32(part == 0 ? vshlq_n_u32(pairs, 16) : vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
  }
  static Vec weights(const uint8_t* w, int part) {
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(w);
    return {widen(vld1q_u32(pairs), part), widen(vld1q_u32(pairs + 4), part)};
  }
};

// Sums of int8 products; `Dot` adds the four of each output to its sum.
template <typename Dot>
struct Int8With {
  struct Vec {
    int32x4_t low, high;
  };
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return {vdupq_n_s32(0), vdupq_n_s32(0)}; }
  static Vec load(const void* from) {
    const int32_t* x = static_cast<const int32_t*>(from);
    return {vld1q_s32(x), vld1q_s32(x + 4)};
  }
  static void store(void* to, Vec x) {
    vst1q_s32(static_cast<int32_t*>(to), x.low);
    vst1q_s32(static_cast<int32_t*>(to) + 4, x.high);
  }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) {
    const int32x4_t term = vld1q_dup_s32(reinterpret_cast<const int32_t*>(x));
    return {term, term};
  }
  static int32x4_t add(int32x4_t acc, int32x4_t w, int32x4_t x) {
    return Dot::add(acc, vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
  }
  static Vec add(Vec acc, Vec w, Vec x) { return {add(acc.low, w.low, x.low), add(acc.high, w.high, x.high)}; }
};

template <typename Dot>
struct Traits {
  using Float32 = llm::Float32;
  using BFloat16 = llm::BFloat16;
  using Int8 = Int8With<Dot>;
  static constexpr bool kBFloat16Rows = false, kInt16Rows = false;
  static constexpr int kOffset = 0;
  static constexpr int kRowsOfFour = 1, kRowsOfTwo = 2, kRowsOfOne = 5;  // in a block of so many panels
  static constexpr int kManyPanels = 1;
};

template <typename Dot>
struct BlockLanes {
  using Int = int32x4_t;
  using Float = float32x4_t;
  static constexpr int kLanes = 4;
  template <Format f>
  static constexpr int offset() {  // values of 8 bits are unpacked as signed ones
    return value_bits(f) == 8 ? 0 : offset_of(f);
  }
  static Int zero() { return vdupq_n_s32(0); }
  static Int integers(int32_t x) { return vdupq_n_s32(x); }
  static Float floats(Int x) { return vcvtq_f32_s32(x); }
  static Float load(const float* x) { return vld1q_f32(x); }
  static void store(float* to, Float x) { vst1q_f32(to, x); }
  static Float broadcast(float x) { return vdupq_n_f32(x); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float halves(const uint8_t* x) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(x))));
  }
  static float largest(const float* x) {
    float32x4_t most = vabsq_f32(load(x));
    for (int i = kLanes; i < kGroup; i += kLanes) most = vmaxq_f32(most, vabsq_f32(load(x + i)));
    return vmaxvq_f32(most);
  }
  static Rounded round(const float* x, float factor, int8_t* to) {
    Int squares = zero();
    Float products = broadcast(0.0f);
    int32_t sum[2];
    for (int half = 0; half < 2; ++half) {
      int16x4_t part[4];
      for (int i = 0; i < 4; ++i) {
        const Float from = load(x + 16 * half + 4 * i);
        const Int levels = vcvtnq_s32_f32(vmulq_n_f32(from, factor));
        part[i] = vmovn_s32(levels), squares = vmlaq_s32(squares, levels, levels);
        products = vfmaq_f32(products, from, floats(levels));
      }
      const int16x8_t low = vcombine_s16(part[0], part[1]), high = vcombine_s16(part[2], part[3]);
      vst1q_s8(to + 16 * half, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
      sum[half] = vaddlvq_s16(low) + vaddlvq_s16(high);
    }
    return {sum[0], sum[0] + sum[1], vaddvq_s32(squares), vaddvq_f32(products)};
  }
  static uint32x2_t four(const uint8_t* x) { return vld1_dup_u32(reinterpret_cast<const uint32_t*>(x)); }
  static Float bytes(const uint8_t* x) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(four(x))))));
  }
  static Float signed_bytes(const uint8_t* x) {
    return floats(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(four(x))))));
  }
  template <Format f>
  static void unpack(const uint8_t* values, Int* w) {
    for (int j = 0; j < kOperands; ++j) {
      uint8x16_t x = vld1q_u8(values + (value_bits(f) == 8 ? j : j % 4) * 64);
      if constexpr (value_bits(f) == 8) {
        x = veorq_u8(x, vdupq_n_u8(0x80));
      } else {
        x = j < 4 ? vandq_u8(x, vdupq_n_u8(0x0f)) : vshrq_n_u8(x, 4);
      }
      if constexpr (value_bits(f) == 5) {
        const uint8x16_t plane = vshlq_u8(vld1q_u8(values + 256), vdupq_n_s8(int8_t(4 - j)));
        x = vorrq_u8(x, vandq_u8(plane, vdupq_n_u8(0x10)));
      } else if constexpr (value_bits(f) == 6) {
        const uint8x16_t plane = vshlq_u8(vld1q_u8(values + 256 + j / 4 * 64), vdupq_n_s8(int8_t(4 - j % 4 * 2)));
        x = vorrq_u8(x, vandq_u8(plane, vdupq_n_u8(0x30)));
      }
      w[j] = vreinterpretq_s32_u8(x);
    }
  }
  template <Format>
  static constexpr int rows() {
    return 1;
  }
  template <int bits, int count>
  static void dot(Int (&sums)[1], const Int (&w)[kOperands], int first, const int8_t* x) {
    for (int j = 0; j < count; ++j) {
      const int8x16_t terms = vreinterpretq_s8_s32(vld1q_dup_s32(reinterpret_cast<const int32_t*>(x + 4 * j)));
      sums[0] = Dot::add(sums[0], vreinterpretq_s8_s32(w[first + j]), terms);
    }
  }
};

template <typename Dot>
constexpr Level level() {
  return level_functions<Traits<Dot>, Lanes, BlockLanes<Dot>>();
}

}  // namespace
}  // namespace llm
