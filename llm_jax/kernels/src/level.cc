// What this processor and operating system allow.
#include <cpuid.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels.h"

namespace llm {
namespace {

// Tile registers are off until a Linux process asks for them (ARCH_REQ_XCOMP_PERM, XTILEDATA).
bool tiles_permitted() {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const unsigned wanted = 1u << 22 | 1u << 24 | 1u << 25;  // bf16, tile, int8
  return (d & wanted) == wanted && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
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
  return __builtin_cpu_supports("avx512bf16") && tiles_permitted() ? kLevelAmx : kLevelAvx512;
}

// Asks Linux to back whole 2 MB stretches of a buffer with huge pages now (MADV_COLLAPSE, Linux 6.1): a tenth more
// read bandwidth. A kernel that cannot leaves the buffer as it was.
extern "C" void llm_huge_pages(void* data, int64_t bytes) {
  constexpr uintptr_t kHuge = 2 << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, 25);
}
