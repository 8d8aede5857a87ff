// Vectors of 16 numbers, for attention by AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

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

}  // namespace
}  // namespace llm
