// Copies blocks of tokens from a cache and into it.
#include <algorithm>
#include <cstring>

#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;
using S32 = ffi::Buffer<ffi::DataType::S32>;

// The slice of a cache [slots, K, S, H] that a block [1, K, T, H] is copied from or to, at (slot, start), clamped to
// the cache. `first` and `stride` are byte offsets of its heads, `bytes` the size of its tokens of one head.
struct Slice {
  int64_t heads, first, stride, bytes;

  Slice(const ffi::AnyBuffer& cache, const ffi::AnyBuffer& block, const S32& at) {
    const auto size = cache.dimensions(), part = block.dimensions();
    const int64_t token = size[3] * (block.size_bytes() / block.element_count());
    const int64_t slot = std::clamp<int64_t>(at.typed_data()[0], 0, size[0] - 1);
    const int64_t start = std::clamp<int64_t>(at.typed_data()[1], 0, size[2] - part[2]);
    heads = size[1], stride = size[2] * token, bytes = part[2] * token;
    first = slot * heads * stride + start * token;
  }
};

ffi::Error write_block(ffi::AnyBuffer cache, ffi::AnyBuffer block, S32 at, ffi::Result<ffi::AnyBuffer> out) {
  const Slice slice(cache, block, at);
  const char* from = static_cast<const char*>(block.untyped_data());
  char* to = static_cast<char*>(out->untyped_data()) + slice.first;
  for (int64_t k = 0; k < slice.heads; ++k)
    std::memcpy(to + k * slice.stride, from + k * slice.bytes, slice.bytes);
  return ffi::Error::Success();
}

ffi::Error read_block(ffi::AnyBuffer cache, S32 at, ffi::Result<ffi::AnyBuffer> block) {
  const Slice slice(cache, *block, at);
  const char* from = static_cast<const char*>(cache.untyped_data()) + slice.first;
  char* to = static_cast<char*>(block->untyped_data());
  for (int64_t k = 0; k < slice.heads; ++k)
    std::memcpy(to + k * slice.bytes, from + k * slice.stride, slice.bytes);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_write_block, llm::write_block,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Ret<xla::ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_read_block, llm::read_block,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Ret<xla::ffi::AnyBuffer>());
