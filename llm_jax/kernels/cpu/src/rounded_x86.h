// Sums of a group of integers, for levels of x86-64 (block_rows.h).
#pragma once

#include <immintrin.h>

#include "block_rows.h"

namespace llm {
namespace {

// Stores int16 values as bytes. `products`: eight partial sums of their products with what they were.
inline Rounded rounded(__m256i first, __m256i last, __m256 products, int8_t* to) {
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first, last), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
  const __m256i ones = _mm256_set1_epi16(1);
  const __m256i sums = _mm256_hadd_epi32(_mm256_madd_epi16(first, ones), _mm256_madd_epi16(last, ones));
  const __m256i squares = _mm256_add_epi32(_mm256_madd_epi16(first, first), _mm256_madd_epi16(last, last));
  // All sums are added up together: first, last, squares, squares, in each half.
  const __m256i lanes = _mm256_hadd_epi32(sums, _mm256_hadd_epi32(squares, squares));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
  __m128 product = _mm_add_ps(_mm256_castps256_ps128(products), _mm256_extractf128_ps(products, 1));
  product = _mm_add_ps(product, _mm_movehl_ps(product, product));
  const int32_t first_sum = _mm_cvtsi128_si32(four);
  return {first_sum, first_sum + _mm_extract_epi32(four, 1), _mm_extract_epi32(four, 2),
          _mm_cvtss_f32(_mm_add_ss(product, _mm_movehdup_ps(product)))};
}

}  // namespace
}  // namespace llm
