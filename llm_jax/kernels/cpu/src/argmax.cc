// The FFI call for the largest number of each row.
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kPart = 1 << 16;  // numbers of a task; for fewer it is not worth waking a thread

using F32 = ffi::Buffer<ffi::DataType::F32>;
using S32 = ffi::Buffer<ffi::DataType::S32>;

ffi::Error argmax(ffi::ThreadPool pool, F32 x, ffi::Result<S32> index, ffi::Result<F32> value, int64_t level) {
  const int64_t rows = x.dimensions()[0], columns = x.dimensions()[1], parts = (columns + kPart - 1) / kPart;
  std::vector<Best> found(rows * parts);
  parallel(pool, rows * parts, [&](int64_t task) {
    const int64_t first = task % parts * kPart, count = columns - first < kPart ? columns - first : kPart;
    found[task] = level_of(level).best_of(x.typed_data() + task / parts * columns + first, count);
    found[task].index += first;
  }, rows);
  for (int64_t row = 0; row < rows; ++row) {
    const Best* part = &found[row * parts];
    Best best = part[0];
    for (int64_t i = 1; i < parts; ++i) {
      if (part[i].value > best.value) best.value = part[i].value, best.index = part[i].index;
      best.all_numbers &= part[i].all_numbers;
    }
    index->typed_data()[row] = int32_t(best.index);
    value->typed_data()[row] = best.all_numbers ? best.value : INFINITY;
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_argmax, llm::argmax,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<llm::F32>()
                                  .Ret<llm::S32>()
                                  .Ret<llm::F32>()
                                  .Attr<int64_t>("level"));
