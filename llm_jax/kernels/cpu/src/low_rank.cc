// The FFI call of low-rank factors beside a matrix: those of several adapters, each row with its own.
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "operands.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

using F32 = ffi::Buffer<ffi::DataType::F32>;
using S32 = ffi::Buffer<ffi::DataType::S32>;

ffi::Error low_rank(ffi::ThreadPool pool, ffi::AnyBuffer x, S32 slots, ffi::AnyBuffer a, ffi::AnyBuffer b,
                    F32 norm_weight, F32 norm_bias, ffi::AnyBuffer residual, ffi::Result<ffi::AnyBuffer> y,
                    int64_t level, int64_t norm, float epsilon) {
  LowRank f{};
  Product& p = f.base;
  p.M = x.dimensions()[0], p.I = x.dimensions()[1], p.O = y->dimensions()[1];
  p.norm = Norm(norm), p.epsilon = epsilon;
  p.x = floats(x), p.y = floats(*y), p.residual = floats(residual);
  p.norm_weight = pointer(norm_weight), p.norm_bias = pointer(norm_bias);
  f.rank = a.dimensions()[1], f.a = floats(a), f.b = floats(b), f.slots = slots.typed_data();

  // Tasks of rows that have the same slot.
  std::vector<int32_t> rows(p.M);
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(), [&](int32_t i, int32_t j) { return f.slots[i] < f.slots[j]; });
  std::vector<int64_t> starts;
  for (int64_t m = 0; m < p.M; ++m)
    if (m == 0 || f.slots[rows[m]] != f.slots[rows[m - 1]] || m - starts.back() == kSharedRows) starts.push_back(m);
  starts.push_back(p.M);
  parallel(pool, int64_t(starts.size()) - 1, [&](int64_t task) {
    level_of(level).low_rank(f, rows.data() + starts[task], starts[task + 1] - starts[task]);
  }, p.M);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_low_rank, llm::low_rank,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::F32>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("norm")
                                  .Attr<float>("epsilon"));
