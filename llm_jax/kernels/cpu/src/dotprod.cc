// NEON with dot products of int8 (ARMv8.2: Graviton 2, Apple M1, Raspberry Pi 5 and later).
#include "neon.h"

namespace llm {
namespace {

struct Quads {
  static int32x4_t add(int32x4_t acc, int8x16_t w, int8x16_t x) { return vdotq_s32(acc, w, x); }
};

}  // namespace

extern const Level kDotprod = level<Quads>();

}  // namespace llm
