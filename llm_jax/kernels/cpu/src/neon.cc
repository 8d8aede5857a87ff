// NEON, which every 64-bit ARM processor has.
#include "neon.h"

namespace llm {
namespace {

// A 16-bit sum of two products of values in ±127 does not overflow.
struct Pairs {
  static int32x4_t add(int32x4_t acc, int8x16_t w, int8x16_t x) {
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(acc, vpaddq_s16(low, high));
  }
};

}  // namespace

extern const Level kNeon = level<Pairs>();

}  // namespace llm
