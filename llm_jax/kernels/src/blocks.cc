// Copies blocks of tokens out of a cache and into it.
#include <algorithm>
#include <cstring>

#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;
using S32 = ffi::Buffer<ffi::DataType::S32>;

// Where each head's run of tokens lies: cache [B, K, S, H], block [1, K, T, H], at (row, start), kept within the cache.
struct Place {
  int64_t heads, first, stride, bytes;  // of tokens in the cache; of a run

  Place(const ffi::AnyBuffer& cache, const ffi::AnyBuffer& block, const S32& at) {
    const auto size = cache.dimensions(), part = block.dimensions();
    const int64_t token = size[3] * (block.size_bytes() / block.element_count());
    const int64_t row = std::clamp<int64_t>(at.typed_data()[0], 0, size[0] - 1);
    const int64_t start = std::clamp<int64_t>(at.typed_data()[1], 0, size[2] - part[2]);
    heads = size[1], stride = size[2] * token, bytes = part[2] * token;
    first = row * heads * stride + start * token;
  }
};

ffi::Error put(ffi::AnyBuffer cache, ffi::AnyBuffer block, S32 at, ffi::Result<ffi::AnyBuffer> out) {
  const Place place(cache, block, at);
  const char* from = static_cast<const char*>(block.untyped_data());
  char* to = static_cast<char*>(out->untyped_data()) + place.first;
  for (int64_t k = 0; k < place.heads; ++k)
    std::memcpy(to + k * place.stride, from + k * place.bytes, place.bytes);
  return ffi::Error::Success();
}

ffi::Error take(ffi::AnyBuffer cache, S32 at, ffi::Result<ffi::AnyBuffer> block) {
  const Place place(cache, *block, at);
  const char* from = static_cast<const char*>(cache.untyped_data()) + place.first;
  char* to = static_cast<char*>(block->untyped_data());
  for (int64_t k = 0; k < place.heads; ++k)
    std::memcpy(to + k * place.bytes, from + k * place.stride, place.bytes);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_put, llm::put,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Ret<xla::ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_take, llm::take,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Ret<xla::ffi::AnyBuffer>());
