// AVX-512 with bf16 dot products (Cooper Lake, Zen 4 and later); all but bfloat16 products by AVX-512.
#include <immintrin.h>

#include "argmax.h"
#include "dense.h"
#include "product.h"
#include "update.h"

namespace llm {
namespace {

// vdpbf16ps adds two products per lane, at twice the rate of two FMAs.
struct BFloat16 {
  using Vec = __m512;
  static constexpr int kRowBytes = 64, kParts = 1;
  static Vec zero() { return _mm512_setzero_ps(); }
  static Vec load(const void* from) { return _mm512_loadu_ps(from); }
  static void store(void* to, Vec x) { _mm512_storeu_ps(to, x); }
  static Vec weights(const uint8_t* w, int) { return load(w); }
  static Vec term(const uint8_t* x) { return _mm512_set1_ps(*reinterpret_cast<const float*>(x)); }
  static Vec add(Vec acc, Vec w, Vec x) { return _mm512_dpbf16_ps(acc, __m512bh(w), __m512bh(x)); }
};

struct Traits {
  static constexpr bool kBFloat16Rows = true, kInt16Rows = false;
  static constexpr int kOffset = 0;
  static constexpr int kRowsOfFour = 4, kRowsOfTwo = 8, kRowsOfOne = 8, kManyPanels = 2;
};

void prepare_any(const Product& p, int64_t tile) {
  p.dtype == kBFloat16 ? prepare<Traits>(p, tile) : kAvx512.prepare(p, tile);
}

void multiply_any(const Product& p, int64_t panel, int64_t count) {
  p.dtype == kBFloat16 ? multiply<Traits, BFloat16>(p, panel, count) : kAvx512.multiply(p, panel, count);
}

void write_any(const Attention& a, int64_t sequence, int64_t kv_head) { kAvx512.write(a, sequence, kv_head); }

void attend_any(const Attention& a, const Queries& queries, const Queries* next) { kAvx512.attend(a, queries, next); }

void prepare_blocks(const BlockProduct& p, int64_t tile) { kAvx512.prepare_blocks(p, tile); }

void multiply_blocks(const BlockProduct& p, int64_t panel, int64_t count) { kAvx512.multiply_blocks(p, panel, count); }

void low_rank(const LowRank& f, const int32_t* rows, int64_t count) { kAvx512.low_rank(f, rows, count); }

void self_attend(const SelfAttention& a, int64_t b, int64_t kv_head, int64_t first, int64_t last, float* memory) {
  kAvx512.self_attend(a, b, kv_head, first, last, memory);
}

void self_attention_gradient(const SelfAttention& a, int64_t b, int64_t kv_head, float* memory) {
  kAvx512.self_attention_gradient(a, b, kv_head, memory);
}

}  // namespace

extern const Level kAvx512BFloat16 = {
    prepare_any,  multiply_any,            write_any,      attend_any, prepare_blocks, multiply_blocks,
    gather_rows,  gather_panel,            low_rank,
    self_attend,  self_attention_gradient, sum_of_squares, adamw, best_of};

}  // namespace llm
