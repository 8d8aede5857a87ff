// AVX2 and FMA (Haswell, Zen and later).
#include <immintrin.h>

#include "attend.h"
#include "product.h"

namespace llm {
namespace {

struct Lanes {
  static constexpr int kQueries = 1;
  struct Vec {
    __m256 low, high;
  };
  static Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Vec load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
  static __m256 widen(const uint16_t* x) {
    __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
  }
  static Vec load(const uint16_t* x) { return {widen(x), widen(x + 8)}; }
  static __m256 widen(const int8_t* x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
  }
  static Vec load(const int8_t* x) { return {widen(x), widen(x + 8)}; }
  static void store(float* to, Vec x) {
    _mm256_storeu_ps(to, x.low);
    _mm256_storeu_ps(to + 8, x.high);
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  static __m256 half(Vec x) { return _mm256_add_ps(x.low, x.high); }
  static void sums(Vec a, Vec b, Vec c, Vec d, float* to) {
    const __m256 lanes = _mm256_hadd_ps(_mm256_hadd_ps(half(a), half(b)), _mm256_hadd_ps(half(c), half(d)));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1)));
  }
};

struct FloatSums {
  using Sum = Lanes::Vec;
  static Sum zero() { return Lanes::zero(); }
  static Sum load(const void* from) { return Lanes::load(static_cast<const float*>(from)); }
  static void store(void* to, Sum x) { Lanes::store(static_cast<float*>(to), x); }
  static __m256 broadcast(const uint8_t* x) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(x)); }
  static Sum fma(Sum w, __m256 x, Sum acc) { return Lanes::fma(w, {x, x}, acc); }
};

struct Float32 : FloatSums {
  using Weights = Sum;
  static constexpr int kRowBytes = 64;
  static Weights weights(const uint8_t* w) { return Lanes::load(reinterpret_cast<const float*>(w)); }
  static __m256 term(const uint8_t* x) { return broadcast(x); }
  static void add(Sum& acc, Weights w, __m256 x) { acc = fma(w, x, acc); }
};

struct BFloat16 : FloatSums {
  static constexpr int kRowBytes = 128;
  struct Weights {
    Sum even, odd;
  };
  struct Terms {
    __m256 even, odd;
  };
  static Weights weights(const uint8_t* w) {
    const __m256i* pairs = reinterpret_cast<const __m256i*>(w);
    const __m256i low = _mm256_loadu_si256(pairs), high = _mm256_loadu_si256(pairs + 1);
    const __m256i upper = _mm256_set1_epi32(int(0xffff0000u));
    return {{_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
            {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))}};
  }
  static Terms term(const uint8_t* x) { return {broadcast(x), broadcast(x + 4)}; }
  static void add(Sum& acc, Weights w, Terms x) {
    acc = fma(w.even, x.even, acc);
    acc = fma(w.odd, x.odd, acc);
  }
};

// vpmaddubsw multiplies an unsigned and a signed factor: |w| and x with w's sign. With both in ±127 its 16-bit sums of
// two products cannot saturate (2 · 127² < 2^15).
struct Int8 {
  struct Sum {
    __m256i low, high;
  };
  using Weights = Sum;
  static constexpr int kRowBytes = 64;
  static Sum zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Sum load(const void* from) {
    const __m256i* halves = static_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
  }
  static void store(void* to, Sum x) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), x.low);
    _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, x.high);
  }
  static Weights weights(const uint8_t* w) { return load(w); }
  static __m256i term(const uint8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
  static __m256i dot(__m256i w, __m256i x) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  }
  static void add(Sum& acc, Weights w, __m256i x) {
    acc.low = _mm256_add_epi32(acc.low, dot(w.low, x));
    acc.high = _mm256_add_epi32(acc.high, dot(w.high, x));
  }
};

struct Traits {
  using Float32 = llm::Float32;
  using BFloat16 = llm::BFloat16;
  using Int8 = llm::Int8;
  static constexpr bool kBFloat16Rows = false;
  static constexpr int kOffset = 0;
  static constexpr int kFewRows = 1;
  static constexpr int kManyRows = 2;
};

}  // namespace

extern const Level kAvx2 = {prepare<Traits>, multiply_any<Traits>, write_any, attend<Lanes>};

}  // namespace llm
