// AVX-512 F, BW, DQ, VL and VNNI (Cascade Lake, Ice Lake, Zen 4 and later).
#include <immintrin.h>

#include "attend.h"
#include "product.h"

namespace llm {
namespace {

struct Lanes {
  static constexpr int kQueries = 4, kSums = 16;
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

}  // namespace

extern const Level kAvx512 = {prepare<Traits>, multiply_any<Traits>, write_any, attend<Lanes>};

}  // namespace llm
