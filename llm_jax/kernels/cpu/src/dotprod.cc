// NEON with dot products of int8 (ARMv8.2: Graviton 2, Apple M1, Raspberry Pi 5 and later).
#include "neon.h"

namespace llm {
namespace {

// Not vdotq_s32: gcc, clang and zig each want another flag for it.
struct Quads {
  static int32x4_t add(int32x4_t acc, int8x16_t w, int8x16_t x) {
    asm(".arch_extension dotprod\n\tsdot %0.4s, %1.16b, %2.16b" : "+w"(acc) : "w"(w), "w"(x));
    return acc;
  }
};

}  // namespace

extern const Level kDotprod = level<Quads>();

}  // namespace llm
