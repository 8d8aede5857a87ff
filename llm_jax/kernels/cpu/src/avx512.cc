// AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake, Ice Lake, Zen 4 and later).
#include <immintrin.h>

#include "level_functions.h"
#include "rounded_x86.h"

namespace llm {
namespace {

struct Lanes {
  static constexpr int kQueries = 4, kSums = 16, kTileRows = 8, kTileVecs = 2;
  using Vec = __m512;
  using Partial = Vec;
  static Partial zero() { return _mm512_setzero_ps(); }
  static Vec broadcast(float x) { return _mm512_set1_ps(x); }
  static Vec load(const float* x) { return _mm512_loadu_ps(x); }
  static Vec load(const uint16_t* x) {
    __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
  }
  static Vec load(const int8_t* x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
  }
  static void store(float* to, Vec x) { _mm512_storeu_ps(to, x); }
  static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
  static Partial dot(Vec a, Vec b, Partial c) { return fma(a, b, c); }
  // The sums of four vectors: lanes of 128 bits are transposed and added, then the four lanes.
  static void sums(Vec a, Vec b, Vec c, Vec d, float* to) {
    const Vec ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Vec cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const Vec lanes = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
};

struct Float32 {
  using Vec = __m512;
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec load(const void* from) { return _mm512_loadu_ps(from); }
  static void store(void* to, Vec x) { _mm512_storeu_ps(to, x); }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) { return _mm512_set1_ps(*reinterpret_cast<const float*>(x)); }
  static Vec add(Vec acc, Vec w, Vec x) { return _mm512_fmadd_ps(w, x, acc); }
};

struct BFloat16 : Float32 {
  static constexpr int kRowBytes = 128, kParts = 2;
  static Vec weights(const uint8_t* w, int part) {
    const __m512i pairs = _mm512_loadu_si512(w);
    return _mm512_castsi512_ps(part == 0 ? _mm512_slli_epi32(pairs, 16)
                                         : _mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u))));
  }
};

struct Int8 {
  using Vec = __m512i;
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return _mm512_setzero_si512(); }
  static Vec load(const void* from) { return _mm512_loadu_si512(from); }
  static void store(void* to, Vec x) { _mm512_storeu_si512(to, x); }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) { return _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
  static Vec add(Vec acc, Vec w, Vec x) { return _mm512_dpbusd_epi32(acc, x, w); }
};

struct Traits {
  using Float32 = llm::Float32;
  using BFloat16 = llm::BFloat16;
  using Int8 = llm::Int8;
  static constexpr bool kBFloat16Rows = false, kInt16Rows = false;
  static constexpr int kOffset = 128;       // vpdpbusd multiplies unsigned rows
  static constexpr int kRowsOfFour = 4, kRowsOfTwo = 8, kRowsOfOne = 8;  // in a block of so many panels
  static constexpr int kManyPanels = 2;
};

struct BlockLanes {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kLanes = 16;
  template <Format f>
  static constexpr int offset() {
    return offset_of(f);
  }
  static Int zero() { return _mm512_setzero_si512(); }
  static Int integers(int32_t x) { return _mm512_set1_epi32(x); }
  static Float floats(Int x) { return _mm512_cvtepi32_ps(x); }
  static Float load(const float* x) { return _mm512_loadu_ps(x); }
  static void store(float* to, Float x) { _mm512_storeu_ps(to, x); }
  static Float broadcast(float x) { return _mm512_set1_ps(x); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float halves(const uint8_t* x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
  }
  static Float bytes(const uint8_t* x) {
    return floats(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
  }
  static Float signed_bytes(const uint8_t* x) {
    return floats(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))));
  }
  static float largest(const float* x) {
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(load(x)), _mm512_abs_ps(load(x + 16))));
  }
  static Rounded round(const float* x, float factor, int8_t* to) {
    const Int first = _mm512_cvtps_epi32(_mm512_mul_ps(load(x), broadcast(factor)));
    const Int last = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + 16), broadcast(factor)));
    const Float products = fma(load(x), floats(first), mul(load(x + 16), floats(last)));
    return rounded(_mm512_cvtepi32_epi16(first), _mm512_cvtepi32_epi16(last),
                   _mm256_add_ps(_mm512_castps512_ps256(products), _mm512_extractf32x8_ps(products, 1)), to);
  }
  // The bits `mask` of x, from `left` places to their right.
  template <int left>
  static Int moved(Int x, int mask) {
    Int there = left >= 0 ? _mm512_slli_epi16(x, left >= 0 ? left : 0) : _mm512_srli_epi16(x, left < 0 ? -left : 0);
    return _mm512_and_si512(there, _mm512_set1_epi8(char(mask)));
  }
  template <Format f, int... j>
  static void add_planes(const uint8_t* values, Int* w, std::integer_sequence<int, j...>) {
    const uint8_t* planes = values + 256;
    if constexpr (value_bits(f) == 5) {
      const Int plane = _mm512_loadu_si512(planes);
      ((w[j] = _mm512_or_si512(w[j], moved<4 - j>(plane, 0x10))), ...);
    } else {
      const Int plane[] = {_mm512_loadu_si512(planes), _mm512_loadu_si512(planes + 64)};
      ((w[j] = _mm512_or_si512(w[j], moved<4 - 2 * (j % 4)>(plane[j / 4], 0x30))), ...);
    }
  }
  template <Format f>
  static void unpack(const uint8_t* values, Int* w) {
    if constexpr (value_bits(f) == 8) {
      for (int j = 0; j < kOperands; ++j) w[j] = _mm512_loadu_si512(values + j * 64);
    } else {
      for (int j = 0; j < 4; ++j) {
        const Int pairs = _mm512_loadu_si512(values + j * 64);
        w[j] = moved<0>(pairs, 0x0f), w[j + 4] = moved<-4>(pairs, 0x0f);
      }
      if constexpr (value_bits(f) > 4) add_planes<f>(values, w, std::make_integer_sequence<int, kOperands>());
    }
  }
  template <Format>
  static constexpr int rows() {
    return 1;
  }
  template <int bits, int count>
  static void dot(Int (&sums)[1], const Int (&w)[kOperands], int first, const int8_t* x) {
#pragma GCC unroll 8
    for (int j = 0; j < count; ++j) {
      int32_t four;
      std::memcpy(&four, x + 4 * j, sizeof four);
      sums[0] = _mm512_dpbusd_epi32(sums[0], w[first + j], _mm512_set1_epi32(four));
    }
  }
};

}  // namespace

extern const Level kAvx512 = level_functions<Traits, Lanes, BlockLanes>();

}  // namespace llm
