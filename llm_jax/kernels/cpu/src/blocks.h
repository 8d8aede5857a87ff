// Matrices in blocks of few bits, as GGUF files have them: formats, and how they are packed.
//
// A group is 32 inputs of a panel of 16 outputs. Its values are unsigned, and so is what is multiplied: eight operands of
// 64 bytes, each with 4 inputs of each output, as in other tiles. Four bits of each value are in 256 bytes: operands 0 to
// 3 in their low halves, 4 to 7 in the high ones. The fifth bits are a plane of 64 bytes, one bit for each operand; fifth
// and sixth are two planes, with two bits for each of four operands. Eight bits are stored as they are multiplied.
//
// A weight is scale · (value - offset) + minimum. Scales and minimums of 16 outputs are float16 for each group, or
// integers of 8 bits for each group (Q6_K: for 16 inputs) and a float16 factor for a record. A record is up to eight
// groups: their values, then their scales; a panel is a sequence of records.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace llm {

// In the order of FORMATS in kernels/blocks.py.
enum Format : int64_t { kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ4_K, kQ5_K, kQ6_K };

constexpr int kGroup = 32;         // inputs that share a scale of x, and mostly one of the weights
constexpr int kRecordGroups = 8;   // groups of a record
constexpr int kOperands = 8;       // of a group: 4 inputs each
constexpr int kHalves = 16 * 2;    // bytes of 16 float16
constexpr int kMaxSegments = 8;

constexpr int value_bits(Format f) {
  return f == kQ8_0 ? 8 : f == kQ6_K ? 6 : f == kQ5_0 || f == kQ5_1 || f == kQ5_K ? 5 : 4;
}
constexpr bool has_minimum(Format f) { return f == kQ4_1 || f == kQ5_1 || f == kQ4_K || f == kQ5_K; }
constexpr bool has_factor(Format f) { return f == kQ4_K || f == kQ5_K || f == kQ6_K; }
constexpr int offset_of(Format f) { return has_minimum(f) ? 0 : 1 << (value_bits(f) - 1); }
constexpr int scales_of(Format f) { return f == kQ6_K ? 2 : 1; }  // of a group and output

// A block of a GGUF file.
constexpr int64_t block_values(Format f) { return has_factor(f) ? 256 : 32; }
constexpr int64_t block_bytes(Format f) {
  constexpr int64_t bytes[] = {18, 20, 22, 24, 34, 144, 176, 210};
  return bytes[f];
}

// A group of a panel.
constexpr int64_t value_bytes(Format f) { return f == kQ8_0 ? 512 : 256 + 64 * (value_bits(f) - 4); }
constexpr int64_t scale_bytes(Format f, int64_t groups) {
  const int64_t kinds = has_minimum(f) ? 2 : 1;
  return has_factor(f) ? kinds * (kHalves + groups * scales_of(f) * 16) : kinds * groups * kHalves;
}
constexpr int64_t record_bytes(Format f, int64_t groups) { return groups * value_bytes(f) + scale_bytes(f, groups); }
constexpr int64_t panel_bytes(Format f, int64_t groups) {
  const int64_t rest = groups % kRecordGroups;
  const int64_t bytes = groups / kRecordGroups * record_bytes(f, kRecordGroups) + (rest ? record_bytes(f, rest) : 0);
  return (bytes + 63) / 64 * 64;
}

// Consecutive outputs in one format. In a gated product there are two, whose panels come in turn.
struct Segment {
  Format format;
  int64_t panels;
  const uint8_t* tiles;
};

// What a group of a row of x is quantised to, beside its values.
struct RowGroup {
  float scale, scaled_sum;  // scaled_sum: scale · sum
  int32_t sum, first_sum;   // of all values, of the first 16
};
constexpr int64_t kRowGroupBytes = kTile * (kGroup + int64_t(sizeof(RowGroup)));  // of 16 rows: values, then RowGroups

struct BlockProduct {
  Product base;  // `rows` and all that is done before and after the multiplication
  int64_t groups;
  int64_t segments;
  Segment segment[kMaxSegments];
};

// The tiles of a panel, whose format is given back.
inline const uint8_t* tiles_of(const BlockProduct& p, int64_t panel, Format& format) {
  const Segment* s = p.segment;
  if (p.base.gated) {
    s += panel % 2, panel /= 2;
  } else {
    while (panel >= s->panels) panel -= s->panels, ++s;
  }
  format = s->format;
  return s->tiles + panel * panel_bytes(format, p.groups);
}

}  // namespace llm
