// The instruction level that the processor and the operating system support.
#include <sys/mman.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sys/auxv.h>
#endif

#include "kernels.h"

#if defined(__x86_64__)

namespace llm {
namespace {

constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, asm/prctl.h
constexpr int kTileData = 18;               // XTILEDATA

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Not __builtin_cpu_supports: compiled by zig, it says no to everything.
Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

constexpr bool has(uint64_t bits, uint64_t required) { return (bits & required) == required; }

constexpr uint64_t bit(int number) { return uint64_t(1) << number; }

// The register states that the operating system saves: XCR0.
uint64_t saved_states() {
  if (!has(cpuid(1, 0).ecx, bit(27))) return 0;  // OSXSAVE
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
}

// Tile registers are disabled until a Linux process requests them.
bool tiles_permitted() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }

}  // namespace

const Level& level_of(int64_t level) {
  switch (level) {
    case kLevelAmx: return kAmx;
    case kLevelAvx512BFloat16: return kAvx512BFloat16;
    case kLevelAvx512: return kAvx512;
    default: return kAvx2;
  }
}

}  // namespace llm

// The highest level that runs here.
extern "C" int64_t llm_level() {
  using namespace llm;
  const uint64_t saved = saved_states();
  const Registers base = cpuid(1, 0), extended = cpuid(7, 0);
  const bool avx2 = has(base.ecx, bit(12) | bit(28) | bit(29)) && has(extended.ebx, bit(5));  // FMA, AVX, F16C; AVX2
  if (!avx2 || !has(saved, bit(1) | bit(2))) return kLevelNone;                     // SSE and AVX registers
  // AVX-512 F, DQ, BW, VL; VNNI; and its registers.
  const bool avx512 = has(extended.ebx, bit(16) | bit(17) | bit(30) | bit(31)) && has(extended.ecx, bit(11));
  if (!avx512 || !has(saved, bit(5) | bit(6) | bit(7))) return kLevelAvx2;
  if (!has(cpuid(7, 1).eax, bit(5))) return kLevelAvx512;             // AVX-512 BF16
  const bool tiles = has(extended.edx, bit(22) | bit(24) | bit(25));  // AMX BF16, TILE, INT8
  return tiles && tiles_permitted() ? kLevelAmx : kLevelAvx512BFloat16;
}

#else

namespace llm {
namespace {

constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP, asm/hwcap.h

}  // namespace

const Level& level_of(int64_t level) { return level == kLevelDotprod ? kDotprod : kNeon; }

}  // namespace llm

extern "C" int64_t llm_level() {
  using namespace llm;
  return getauxval(AT_HWCAP) & kDotProducts ? kLevelDotprod : kLevelNeon;
}

#endif

// Asks Linux to back the aligned 2 MB blocks of a buffer with huge pages: a tenth more read bandwidth. It counts for
// what is not written yet. Without effect where the kernel does not support it.
extern "C" void llm_huge_pages(void* data, int64_t bytes) {
  using namespace llm;
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}
