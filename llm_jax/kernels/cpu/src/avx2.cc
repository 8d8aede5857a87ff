// AVX2 and FMA (Haswell, Zen and later).
#include <immintrin.h>

#include "level_functions.h"
#include "rounded_x86.h"

namespace llm {
namespace {

struct Lanes {
  static constexpr int kQueries = 2, kSums = 4, kTileRows = 6, kTileVecs = 1;
  struct Vec {
    __m256 low, high;
  };
  using Partial = __m256;
  static Partial zero() { return _mm256_setzero_ps(); }
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
  static Partial dot(Vec a, Vec b, Partial c) {
    return _mm256_fmadd_ps(a.high, b.high, _mm256_fmadd_ps(a.low, b.low, c));
  }
  static void sums(Partial a, Partial b, Partial c, Partial d, float* to) {
    const __m256 lanes = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps(lanes, 1)));
  }
};

struct Float32 {
  using Vec = __m256;
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return _mm256_setzero_ps(); }
  static Vec load(const void* from) { return _mm256_loadu_ps(static_cast<const float*>(from)); }
  static void store(void* to, Vec x) { _mm256_storeu_ps(static_cast<float*>(to), x); }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(x)); }
  static Vec add(Vec acc, Vec w, Vec x) { return _mm256_fmadd_ps(w, x, acc); }
};

struct BFloat16 : Float32 {
  static constexpr int kRowBytes = 128, kParts = 2;
  static Vec weights(const uint8_t* w, int part) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(w));
    return _mm256_castsi256_ps(part == 0 ? _mm256_slli_epi32(pairs, 16)
                                         : _mm256_and_si256(pairs, _mm256_set1_epi32(int(0xffff0000u))));
  }
};

// Pairs of int16: vpmaddubsw, which multiplies bytes, needs one factor unsigned, and moving the signs costs more than
// the other half of the bytes.
struct Int8 {
  using Vec = __m256i;
  static constexpr int kRowBytes = 128, kParts = 2;
  static Vec zero() { return _mm256_setzero_si256(); }
  static Vec load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
  static void store(void* to, Vec x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
  static Vec weights(const uint8_t* w, int part) {
    const __m256i bytes = load(w);  // times 1 and 0: the even ones in one instruction
    return part == 0 ? _mm256_maddubs_epi16(_mm256_set1_epi16(1), bytes) : _mm256_srai_epi16(bytes, 8);
  }
  static Vec term(const uint8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
  static Vec add(Vec acc, Vec w, Vec x) {
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(w, x));
    asm("" : "+x"(acc));  // else the compiler adds products to each other first, and runs out of registers
    return acc;
  }
};

struct Traits {
  using Float32 = llm::Float32;
  using BFloat16 = llm::BFloat16;
  using Int8 = llm::Int8;
  static constexpr bool kBFloat16Rows = false, kInt16Rows = true;
  static constexpr int kOffset = 0;
  static constexpr int kRowsOfFour = 1, kRowsOfTwo = 2, kRowsOfOne = 6;  // in a block of so many panels
  static constexpr int kManyPanels = 1;
};

struct BlockLanes {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kLanes = 8;
  template <Format f>
  static constexpr int offset() {  // values of 8 bits are unpacked as signed ones
    return value_bits(f) == 8 ? 0 : offset_of(f);
  }
  template <Format f>
  static constexpr int rows() {  // two hide each other's latency; with two scales of a group registers do not suffice
    return scales_of(f) == 1 ? 2 : 1;
  }
  static Int load_bytes(const uint8_t* x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)); }
  static Int zero() { return _mm256_setzero_si256(); }
  static Int integers(int32_t x) { return _mm256_set1_epi32(x); }
  static Float floats(Int x) { return _mm256_cvtepi32_ps(x); }
  static Float load(const float* x) { return _mm256_loadu_ps(x); }
  static void store(float* to, Float x) { _mm256_storeu_ps(to, x); }
  static Float broadcast(float x) { return _mm256_set1_ps(x); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float halves(const uint8_t* x) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
  }
  static Float bytes(const uint8_t* x) {
    return floats(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
  }
  static Float signed_bytes(const uint8_t* x) {
    return floats(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
  }
  static float largest(const float* x) {
    const Float sign = _mm256_set1_ps(-0.0f);
    Float most = _mm256_setzero_ps();
    for (int i = 0; i < kGroup; i += kLanes) most = _mm256_max_ps(most, _mm256_andnot_ps(sign, load(x + i)));
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(most), _mm256_extractf128_ps(most, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
  }
  // 16 floats as int16; their products with what they were are added to `products`.
  static Int pairs(const float* x, float factor, Float& products) {
    const Int low = _mm256_cvtps_epi32(mul(load(x), broadcast(factor)));
    const Int high = _mm256_cvtps_epi32(mul(load(x + 8), broadcast(factor)));
    products = fma(load(x), floats(low), fma(load(x + 8), floats(high), products));
    return _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0xd8);
  }
  static Rounded round(const float* x, float factor, int8_t* to) {
    Float products = _mm256_setzero_ps();
    const Int first = pairs(x, factor, products), last = pairs(x + 16, factor, products);
    return rounded(first, last, products, to);
  }
  // The bits `mask` of x, from `left` places to their right.
  template <int left>
  static Int moved(Int x, int mask) {
    Int there = left >= 0 ? _mm256_slli_epi16(x, left >= 0 ? left : 0) : _mm256_srli_epi16(x, left < 0 ? -left : 0);
    return _mm256_and_si256(there, _mm256_set1_epi8(char(mask)));
  }
  template <Format f, int... j>
  static void add_planes(const uint8_t* values, Int* w, std::integer_sequence<int, j...>) {
    const uint8_t* planes = values + 256;
    if constexpr (value_bits(f) == 5) {
      const Int plane = load_bytes(planes);
      ((w[j] = _mm256_or_si256(w[j], moved<4 - j>(plane, 0x10))), ...);
    } else {
      const Int plane[] = {load_bytes(planes), load_bytes(planes + 64)};
      ((w[j] = _mm256_or_si256(w[j], moved<4 - 2 * (j % 4)>(plane[j / 4], 0x30))), ...);
    }
  }
  template <Format f>
  static void unpack(const uint8_t* values, Int* w) {
    if constexpr (value_bits(f) == 8) {
      for (int j = 0; j < kOperands; ++j) w[j] = _mm256_xor_si256(load_bytes(values + j * 64), _mm256_set1_epi8(-128));
    } else {
      for (int j = 0; j < 4; ++j) {
        const Int pairs = load_bytes(values + j * 64);
        w[j] = moved<0>(pairs, 0x0f), w[j + 4] = moved<-4>(pairs, 0x0f);
      }
      if constexpr (value_bits(f) > 4) add_planes<f>(values, w, std::make_integer_sequence<int, kOperands>());
    }
  }
  static Int ordered(Int x) {
    asm("" : "+x"(x));  // else the compiler adds in a tree, and runs out of registers
    return x;
  }
  // Products of pairs are added in 16 bits as long as they cannot overflow: 8, 4 or 2 operands of 4, 5 or 6 bits.
  template <int bits, int count, int Rows>
  static void dot(Int (&sums)[Rows], const Int (&w)[kOperands], int first, const int8_t* x) {
    constexpr int chain = bits == 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1;
    const Int ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int j = 0; j < count; j += chain) {
      Int pairs[Rows];
#pragma GCC unroll 16
      for (int t = 0; t < chain * Rows; ++t) {
        const int i = j + t / Rows, r = t % Rows;
        int32_t four;
        std::memcpy(&four, x + r * kGroup + 4 * i, sizeof four);
        const Int terms = _mm256_set1_epi32(four), weights = w[first + i];
        const Int products = bits == 8
                                 ? _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(terms, weights))
                                 : _mm256_maddubs_epi16(weights, terms);
        pairs[r] = i == j ? products : ordered(_mm256_add_epi16(pairs[r], products));
      }
#pragma GCC unroll 2
      for (int r = 0; r < Rows; ++r) sums[r] = ordered(_mm256_add_epi32(sums[r], _mm256_madd_epi16(pairs[r], ones)));
    }
  }
};

}  // namespace

extern const Level kAvx2 = level_functions<Traits, Lanes, BlockLanes>();

}  // namespace llm
