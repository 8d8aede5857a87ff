// The interface between the FFI calls (argmax.cc, blocks.cc, calls.cc, dense.cc, low_rank.cc, self_attention.cc,
// update.cc) and the instruction levels: avx2.cc, avx512.cc, avx512_bf16.cc, amx.cc on x86-64; neon.cc, dotprod.cc on aarch64.
//
// Weights and activations are stored in tiles of 16 rows × 64 bytes of the contracted axis, the size of an AMX
// register. A weight tile is 16 groups of 64 bytes; a group has 4 bytes of each of 16 output rows (1 float32, 2
// bfloat16 or 4 int8), the operand of one vpdpbusd, one pair of FMAs or one row of a B tile. 16 output rows over the
// whole contracted axis are a panel; panels are contiguous.
//
// Axes: M rows of x, I inputs (the contracted axis), O outputs; R sequences, N query heads, K key/value heads, H head
// size, G query heads per key/value head.
#pragma once

#include <cstddef>
#include <cstdint>

#include "activations.h"

namespace llm {

enum DType : int64_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };
enum Norm : int64_t { kNoNorm = 0, kRms = 1, kLayer = 2 };

constexpr int kTile = 16;             // rows of a tile, and 4-byte words of one of its rows
constexpr int kTileBytes = 1024;      // of a weight tile: 16 groups of 64 bytes
constexpr int kGroupBytes = 64;       // 4 bytes of each of 16 output rows
constexpr int64_t kPanelsAtOnce = 4;  // panels that a level computes in one pass over the rows
constexpr size_t kLargeOutput = 4 << 20;  // bytes: such memory is new from the system each time, and faults by page
constexpr int64_t kQueryRows = 64;    // queries that share one pass over the cache
constexpr int64_t kSharedRows = 4;    // rows that share low-rank factors: as many as Lanes::sums of a level adds
constexpr int64_t kChunk = 64;        // keys at a time: they, their scores and values stay in the L1 cache

// A pointer to float32 or bfloat16 values.
struct Floats {
  void* data;
  bool is_bfloat16;
};

// y = act(norm(x) · Wᵀ · scale + bias) + residual; with `gated`, panels alternate between gate and up and
// y = act(gate) · up.
struct Product {
  int64_t M, O, I;  // x is [M, I], y is [M, O]
  int64_t panels, chunks;
  DType dtype;  // of the weights
  Activation activation;
  Norm norm;
  bool gated;
  float epsilon;
  Floats x, y, residual;
  const uint8_t* weight;
  const float* scale;         // int8: one per packed output row
  const int32_t* column_sum;  // int8, for levels that multiply unsigned rows: one per packed output row
  const float* bias;          // one per packed output row, or null
  const float* norm_weight;
  const float* norm_bias;
  uint8_t* rows;     // workspace: x in tiles, in the number format of the level
  float* row_scale;  // workspace, int8: one per row
};

// Keys or values [blocks, K, block_tokens, H]. An int8 vector is followed by its scale, a float32: four more bytes.
struct Cache {
  void* data;
  DType dtype;
};

// Attention of the new tokens of R sequences over what each has cached. The tokens of sequence r are starts[r] …
// starts[r + 1] - 1; the first new_tokens[r] of them are valid, the others padding. Their keys and values are written
// to positions from lengths[r] on, and each attends to all positions up to its own.
struct Attention {
  int64_t R, N, K, H;
  int64_t block_tokens, max_blocks;  // positions of a block: a multiple of 64, or max_blocks is 1
  int64_t window;                    // 0: none
  int64_t rotary;                    // rotated dimensions / 2; 0: none
  float scale, softcap;              // scale above 0; softcap 0: none
  Floats qkv, out;                   // [tokens, N + 2 K, H], [tokens, N, H]
  Cache keys, values;
  const int32_t* blocks;  // [R, max_blocks]: those of a sequence in turn; only what it writes or sees is read
  const int32_t *starts, *lengths, *new_tokens;  // [R + 1], [R]: tokens in the cache, [R]
  const float* slopes;                           // [N], or null
  const float *cosine, *sine;                    // [tokens, rotary], or null
};

// Attention of the tokens of B sequences over each other. `mean` is that of the gradient of a query's weights, by these.
struct SelfAttention {
  int64_t B, T, N, K, H;
  int64_t window;  // 0: none
  int64_t rotary;  // rotated dimensions / 2; 0: none
  float scale, softcap;  // softcap 0: none
  bool is_causal;
  Floats qkv, out;                      // [B, T, N + 2 K, H], [B, T, N, H]
  const int32_t *position, *segment;    // [B, T]; segment may be null
  const float *slopes, *sinks;          // [N], or null
  const float *cosine, *sine;           // [B, T, rotary], or null
  float* logsumexp;                     // [B, N, T]: of each query's scores
  Floats of_out, of_qkv;                // gradients
  float* mean;                          // [B, N, T]
};

// The memory of a task of it: keys and values of a head, blocks of queries, and squares of scores.
inline int64_t self_attention_floats(const SelfAttention& a, bool is_gradient) {
  const int64_t head = a.T * a.H, block = kChunk * a.H, square = kChunk * kChunk;
  return is_gradient ? 4 * head + 6 * block + 3 * square : 2 * head + 3 * block + 2 * square;
}

// A plain matrix as a product reads it: `count` vectors of K values. Value k of vector n is at n * stride + k from the
// first, or, where it is stored by columns, at k * stride + n.
struct Operand {
  Floats values;
  int64_t first, count, K, stride;
  bool by_columns;
};

// The largest of some numbers and the first index that has it; arbitrary where not all are numbers.
struct Best {
  float value;
  int64_t index;
  bool all_numbers;
};

// An optimiser's update of one array: its parameters, the moving averages of gradients and of their squares.
struct Update {
  float* parameter;
  Floats mean;
  float* square;
  const float* gradient;
  float rate, clip, beta1, beta2, epsilon, decay;
  float mean_scale, square_scale;  // what makes up for averages of few steps
};

// Rows that a task multiplies with a group of panels: all, or, where there are fewer groups than `tasks`, a share of
// them, so that no thread waits long for another.
inline int64_t rows_of_task(int64_t M, int64_t groups, int64_t tasks) {
  constexpr int64_t kLeast = 128;
  const int64_t parts = (tasks + groups - 1) / groups;
  const int64_t rows = ((M + parts - 1) / parts + kTile - 1) / kTile * kTile;
  return rows > kLeast ? rows : kLeast;
}

// Queries first … first + count - 1 (at most kQueryRows) of a sequence, of those that share a key/value head: ordered
// by position, then by query head.
struct Queries {
  int64_t sequence, kv_head, first, count;
};

struct BlockProduct;  // blocks.h

// y = residual + B_s (A_s norm(x)) with the slot s of each row, which adds nothing where it is negative. Of `base`: x,
// y, residual and norm.
struct LowRank {
  Product base;
  int64_t rank;
  Floats a, b;           // [slots, rank, I], [slots, rank, O]
  const int32_t* slots;  // [M]
};

// References, so that a level that lacks a function does not compile.
struct Level {
  // Packs 16 rows of x into a tile: normalised, then rounded or quantised to the dtype.
  void (&prepare)(const Product&, int64_t tile);
  // Computes the columns of `count` panels for all rows.
  void (&multiply)(const Product&, int64_t panel, int64_t count);
  // Writes a sequence's new keys and values of one head into the cache.
  void (&write)(const Attention&, int64_t sequence, int64_t kv_head);
  // Computes attention of some queries. The cache that the `next` ones begin with, unless null, is prefetched.
  void (&attend)(const Attention&, const Queries&, const Queries* next);
  // As `prepare` and `multiply`, of a matrix in blocks of few bits.
  void (&prepare_blocks)(const BlockProduct&, int64_t tile);
  void (&multiply_blocks)(const BlockProduct&, int64_t panel, int64_t count);
  // Lay out 16 vectors of a plain matrix: as rows of float32, for `prepare`, or as a panel, for `multiply` (dense.h).
  void (&gather_rows)(const Operand&, int64_t first, float* rows);
  void (&gather_panel)(const Operand&, DType dtype, int64_t first, uint8_t* panel);
  // Computes `count` rows, at most kSharedRows, that have the same slot.
  void (&low_rank)(const LowRank&, const int32_t* rows, int64_t count);
  // Attention of blocks first … last - 1 of 64 queries, and the gradient of all that share a key/value head; `memory` is
  // `self_attention_floats` long.
  void (&self_attend)(const SelfAttention&, int64_t b, int64_t kv_head, int64_t first, int64_t last, float* memory);
  void (&self_attention_gradient)(const SelfAttention&, int64_t b, int64_t kv_head, float* memory);
  // Over many elements (update.h, argmax.h).
  double (&sum_of_squares)(const float* x, int64_t count);
  void (&adamw)(const Update&, int64_t first, int64_t last);
  Best (&best_of)(const float* x, int64_t count);
};

extern const Level kAvx2, kAvx512, kAvx512BFloat16, kAmx;  // on x86-64
extern const Level kNeon, kDotprod;                         // on aarch64

enum LevelId : int64_t {
  kLevelNone,
  kLevelAvx2,
  kLevelAvx512,
  kLevelAvx512BFloat16,
  kLevelAmx,
  kLevelNeon,
  kLevelDotprod
};

// The functions of a level of this architecture (level.cc).
const Level& level_of(int64_t level);

}  // namespace llm

extern "C" void llm_huge_pages(void* data, int64_t bytes);  // level.cc
