// The instruction level that the processor and the operating system support.
#include <cpuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"

namespace llm {
namespace {

constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, asm/prctl.h
constexpr int kTileData = 18;               // XTILEDATA

// Tile registers are disabled until a Linux process requests them.
bool tiles_permitted() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned required = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
  return (d & required) == required && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace
}  // namespace llm

// The highest level that runs here.
extern "C" int64_t llm_level() {
  using namespace llm;
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return kLevelNone;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (!avx512) return kLevelAvx2;
  if (!__builtin_cpu_supports("avx512bf16")) return kLevelAvx512;
  return tiles_permitted() ? kLevelAmx : kLevelAvx512BFloat16;
}

// Asks Linux to back the aligned 2 MB blocks of a buffer with huge pages: a tenth more read bandwidth. It counts for
// what is not written yet. Without effect where the kernel does not support it.
extern "C" void llm_huge_pages(void* data, int64_t bytes) {
  constexpr uintptr_t kHugePage = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHugePage * kHugePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}
