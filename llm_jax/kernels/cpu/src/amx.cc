// AMX tiles for bfloat16 and int8 (Sapphire Rapids and later); everything else by AVX-512.
#include <immintrin.h>

#include "argmax.h"
#include "attend_amx.h"
#include "dense.h"
#include "update.h"

namespace llm {
namespace {

struct Traits {
  static constexpr bool kBFloat16Rows = true, kInt16Rows = false;
  static constexpr int kOffset = 0;
};

// A macro, because the intrinsics need register numbers as literals.
#define DOT(sums, rows, weights)                 \
  do {                                           \
    if constexpr (dtype == kInt8) {               \
      _tile_dpbssd(sums, rows, weights);         \
    } else {                                     \
      _tile_dpbf16ps(sums, rows, weights);       \
    }                                            \
  } while (false)

// Registers 0-3: sums, 4-5: rows, 6-7: weights. Sums and rows have `rows` rows, so that a single row takes a sixteenth
// of the time of a tile.
void configure(int rows) {
  const Shape few{rows, 64}, all{16, 64};
  configure({few, few, few, few, few, few, all, all});
}

void clear() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// One tile of rows times up to four panels. The weights are read once from memory.
template <DType dtype, int Panels>
void one_by(const uint8_t* x, const uint8_t* w, int64_t panel_bytes, int64_t chunks, float* sums) {
  clear();
  for (int64_t c = 0; c < chunks; ++c) {
    _tile_loadd(4, x + c * kTileBytes, 64);
    _tile_loadd(6, w + c * kTileBytes, 64);
    DOT(0, 4, 6);
    if constexpr (Panels > 1) {
      _tile_loadd(7, w + panel_bytes + c * kTileBytes, 64);
      DOT(1, 4, 7);
    }
    if constexpr (Panels > 2) {
      _tile_loadd(6, w + 2 * panel_bytes + c * kTileBytes, 64);
      DOT(2, 4, 6);
    }
    if constexpr (Panels > 3) {
      _tile_loadd(7, w + 3 * panel_bytes + c * kTileBytes, 64);
      DOT(3, 4, 7);
    }
  }
  _tile_stored(0, sums, Panels * 64);
  if constexpr (Panels > 1) _tile_stored(1, sums + 16, Panels * 64);
  if constexpr (Panels > 2) _tile_stored(2, sums + 32, Panels * 64);
  if constexpr (Panels > 3) _tile_stored(3, sums + 48, Panels * 64);
}

// Two tiles of rows times two panels: each loaded tile is used twice. The last rows prefetch the next two panels.
template <DType dtype>
void two_by_two(const uint8_t* x, const uint8_t* w, int64_t panel_bytes, int64_t chunks, bool is_last, float* sums) {
  clear();
  for (int64_t c = 0; c < chunks; ++c) {
    if (is_last)
      for (int64_t line = c * kTileBytes; line < (c + 1) * kTileBytes; line += kCacheLine)
        for (int64_t q = 2; q < 4; ++q) __builtin_prefetch(w + q * panel_bytes + line, 0, kPrefetchL2);
    _tile_loadd(4, x + c * kTileBytes, 64);
    _tile_loadd(6, w + c * kTileBytes, 64);
    DOT(0, 4, 6);
    _tile_loadd(7, w + panel_bytes + c * kTileBytes, 64);
    DOT(1, 4, 7);
    _tile_loadd(5, x + (chunks + c) * kTileBytes, 64);
    DOT(2, 5, 6);
    DOT(3, 5, 7);
  }
  // Sums are [32 rows][32 columns].
  _tile_stored(0, sums, 128);
  _tile_stored(1, sums + 16, 128);
  _tile_stored(2, sums + 512, 128);
  _tile_stored(3, sums + 528, 128);
}

template <DType dtype>
void multiply(const Product& p, int64_t panel, int64_t count) {
  alignas(64) float sums[kTile * kPanelsAtOnce * kTile];
  const int64_t panel_bytes = p.chunks * kTileBytes, tile_bytes = p.chunks * kTileBytes;
  const bool few = p.M <= kTile;
  configure(few ? int(p.M) : kTile);
  // Few rows: many panels at a time, for one pass over memory. Many rows: two, which stay in the L1 cache.
  for (const int64_t step = few ? kPanelsAtOnce : 2; count > 0; panel += step, count -= step) {
    const uint8_t* w = p.weight + panel * panel_bytes;
    const int64_t width = count < step ? count : step;
    for (int64_t m = 0; m < p.M;) {
      const uint8_t* x = p.rows + m / kTile * tile_bytes;
      const int64_t left = p.M - m;
      if (left > kTile && width == 2) {
        two_by_two<dtype>(x, w, panel_bytes, p.chunks, left <= 32, sums);
        finish<Traits>(p, m, left < 32 ? left : 32, panel, 2, sums, 32);
        m += 32;
        continue;
      }
      switch (width) {
        case 1: one_by<dtype, 1>(x, w, panel_bytes, p.chunks, sums); break;
        case 2: one_by<dtype, 2>(x, w, panel_bytes, p.chunks, sums); break;
        case 3: one_by<dtype, 3>(x, w, panel_bytes, p.chunks, sums); break;
        default: one_by<dtype, 4>(x, w, panel_bytes, p.chunks, sums);
      }
      finish<Traits>(p, m, left < kTile ? left : kTile, panel, width, sums, width * kTile);
      m += kTile;
    }
  }
  _tile_release();
}

void prepare_any(const Product& p, int64_t tile) {
  p.dtype == kFloat32 ? kAvx512.prepare(p, tile) : prepare<Traits>(p, tile);
}

void multiply_any(const Product& p, int64_t panel, int64_t count) {
  switch (p.dtype) {
    case kFloat32: return kAvx512.multiply(p, panel, count);
    case kBFloat16: return multiply<kBFloat16>(p, panel, count);
    case kInt8: return multiply<kInt8>(p, panel, count);
  }
}

void attend_any(const Attention& a, const Queries& queries, const Queries* next) {
  const bool has_tiles = a.keys.dtype == kBFloat16 && a.H % kTileDepth == 0;
  has_tiles ? attend(a, queries, next) : kAvx512.attend(a, queries, next);
}

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

extern const Level kAmx = {
    prepare_any,  multiply_any,            write_any,      attend_any, prepare_blocks, multiply_blocks,
    gather_rows,  gather_panel,            low_rank,
    self_attend,  self_attention_gradient, sum_of_squares, adamw, best_of};

}  // namespace llm
