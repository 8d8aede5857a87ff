// The FFI calls over all gradients of a step: their norm, and the optimiser's update where parameters and moments lie.
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

using F32 = ffi::Buffer<ffi::DataType::F32>;

constexpr int64_t kPart = 1 << 16;  // elements of a task

struct Part {
  size_t array;
  int64_t first, last;
};

// Arrays of so many elements in parts.
std::vector<Part> parts_of(const std::vector<int64_t>& counts) {
  std::vector<Part> parts;
  for (size_t array = 0; array < counts.size(); ++array)
    for (int64_t first = 0; first < counts[array]; first += kPart)
      parts.push_back({array, first, first + kPart < counts[array] ? first + kPart : counts[array]});
  return parts;
}

ffi::Error norm(ffi::ThreadPool pool, ffi::RemainingArgs arrays, ffi::Result<F32> out, int64_t level) {
  std::vector<const float*> values;
  std::vector<int64_t> counts;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto array = arrays.get<F32>(i);
    if (array.has_error()) return array.error();
    values.push_back(array->typed_data()), counts.push_back(array->element_count());
  }
  const std::vector<Part> parts = parts_of(counts);
  std::vector<double> sums(parts.size());  // added up in their order: the same sum, however many threads
  parallel(pool, int64_t(parts.size()), [&](int64_t i) {
    const Part& part = parts[i];
    sums[i] = level_of(level).sum_of_squares(values[part.array] + part.first, part.last - part.first);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  *out->typed_data() = float(std::sqrt(total));
  return ffi::Error::Success();
}

// `numbers`: learning rate, factor of gradients, factors of both moments, and whether to change anything at all.
// `arrays`: all parameters, then all first moments, then all second ones, then all gradients; results are the first
// three, in place.
ffi::Error adamw(ffi::ThreadPool pool, F32 numbers, ffi::RemainingArgs arrays, ffi::RemainingRets results,
                 int64_t level, float beta1, float beta2, float epsilon, ffi::Span<const float> decay) {
  const float* number = numbers.typed_data();
  const size_t count = decay.size();
  std::vector<Update> updates(count);
  std::vector<int64_t> counts(count);
  std::vector<void*> data;
  for (size_t i = 0; i < 4 * count; ++i) {
    const auto array = arrays.get<ffi::AnyBuffer>(i);
    if (array.has_error()) return array.error();
    data.push_back(array->untyped_data());
    if (i < count) counts[i] = array->element_count();
    if (i / count == 1) updates[i % count].mean.is_bfloat16 = array->element_type() == ffi::DataType::BF16;
    if (i >= 3 * count) continue;
    auto result = results.get<ffi::AnyBuffer>(i);
    if (result.has_error()) return result.error();
    if ((*result)->untyped_data() != data[i])
      return ffi::Error::Internal("parameters and moments must be updated in place");
  }
  if (number[4] == 0) return ffi::Error::Success();
  for (size_t i = 0; i < count; ++i) {
    Update& u = updates[i];
    u.parameter = static_cast<float*>(data[i]), u.mean.data = data[count + i];
    u.square = static_cast<float*>(data[2 * count + i]);
    u.gradient = static_cast<const float*>(data[3 * count + i]);
    u.rate = number[0], u.clip = number[1], u.mean_scale = number[2], u.square_scale = number[3];
    u.beta1 = beta1, u.beta2 = beta2, u.epsilon = epsilon, u.decay = decay[i];
  }
  const std::vector<Part> parts = parts_of(counts);
  parallel(pool, int64_t(parts.size()), [&](int64_t i) {
    level_of(level).adamw(updates[parts[i].array], parts[i].first, parts[i].last);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    llm_norm, llm::norm,
    xla::ffi::Ffi::Bind().Ctx<xla::ffi::ThreadPool>().RemainingArgs().Ret<llm::F32>().Attr<int64_t>("level"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_adamw, llm::adamw,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<llm::F32>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<int64_t>("level")
                                  .Attr<float>("beta1")
                                  .Attr<float>("beta2")
                                  .Attr<float>("epsilon")
                                  .Attr<xla::ffi::Span<const float>>("decay"));
