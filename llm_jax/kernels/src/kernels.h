// What the calls (calls.cc) ask of one processor level (avx2.cc, avx512.cc, amx.cc).
//
// Weights and activations lie in tiles of 16 rows × 64 bytes of the contracted axis, the shape of an AMX register.
// A weight tile is 16 groups of 64 bytes; a group holds 4 bytes of each of 16 output rows (1 float32, 2 bfloat16 or
// 4 int8), which is what one vpdpbusd, one pair of FMAs or one row of a B tile consumes. 16 output rows over the
// whole contracted axis are a panel; panels follow one another.
#pragma once

#include <cstddef>
#include <cstdint>

namespace llm {

enum Kind : int64_t { kFloat32 = 0, kBFloat16 = 1, kInt8 = 2 };
enum Activation : int64_t { kNone, kSilu, kGeluTanh, kGelu, kRelu, kRelu2, kTanh, kSigmoid };
enum Norm : int64_t { kNoNorm = 0, kRms = 1, kLayer = 2 };

constexpr int kTile = 16;  // rows of a tile
constexpr int64_t kQueryRows = 64;  // queries that share one pass over the cache

// A pointer to float32 or bfloat16 values.
struct Floats {
  void* data;
  bool narrow;  // bfloat16
};

// y = act(norm(x) · Wᵀ · scale + bias) + residual; with `gated`, panels alternate between gate and up and
// y = act(gate) · up.
struct Product {
  int64_t M, N, K;  // N counts the columns of y
  int64_t panels, chunks;
  Kind kind;
  Activation activation;
  Norm norm;
  bool gated;
  float epsilon;
  Floats x, y, residual;
  const uint8_t* weight;
  const float* scale;       // int8: one per packed row
  const int32_t* column_sum;  // int8, of levels that want unsigned rows: one per packed row
  const float* bias;        // one per packed row, or null
  const float* norm_weight;
  const float* norm_bias;
  uint8_t* rows;     // workspace: x in tiles, in the level's own number format
  float* row_scale;  // workspace, int8: one per row
};

// Keys or values [B, K, S, H]. An int8 row is followed by its scale: four more bytes, a float32.
struct Cache {
  void* data;
  Kind kind;
};

// New tokens, row after row: those of row b are starts[b] … starts[b + 1] - 1. The first live[b] of them count: their
// keys and values are written from lengths[b] on, and each attends over everything up to itself.
struct Attention {
  int64_t B, N, K, S, H;
  int64_t longest;  // no row has more new tokens
  int64_t window;  // 0: none
  int64_t rotary;  // rotated dimensions / 2; 0: none
  float scale, softcap;  // scale above 0; softcap 0: none
  Floats qkv, out;  // [tokens, N + 2K, H], [tokens, N, H]
  Cache keys, values;  // from the first row that takes part
  const int32_t *starts, *lengths, *live;  // [B + 1], [B], [B]
  const float* slopes;  // [N], or null
  const float *cosine, *sine;  // [tokens, rotary], or null
};

struct Level {
  // Brings 16 rows of x into tiles: normalised, rounded or quantised as the kind wants it.
  void (*prepare)(const Product&, int64_t tile);
  // Computes the columns of `count` panels for all rows.
  void (*multiply)(const Product&, int64_t panel, int64_t count);
  // Puts a row's new keys and values of one head into the cache.
  void (*write)(const Attention&, int64_t row, int64_t kv_head);
  // Queries first … first + count - 1 (at most kQueryRows) of those that share a key head, ordered by position, then
  // by query head.
  void (*attend)(const Attention&, int64_t row, int64_t kv_head, int64_t first, int64_t count);
};

extern const Level kAvx2, kAvx512, kAmx;

enum LevelId : int64_t { kLevelNone = 0, kLevelAvx2 = 1, kLevelAvx512 = 2, kLevelAmx = 3 };

}  // namespace llm
