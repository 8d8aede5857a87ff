// Packs weights into tiles, once, when a model is loaded.
#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

// Rows [O, words of 4 bytes] into panels of tiles, padded with zeros. With a gate, panels of the matrix and of the gate
// alternate.
ffi::Error pack(ffi::ThreadPool pool, ffi::AnyBuffer matrix, ffi::AnyBuffer gate, ffi::Result<ffi::AnyBuffer> tiles) {
  const int64_t rows = matrix.dimensions()[0], words = int64_t(matrix.size_bytes()) / rows / 4;
  const int64_t panels = tiles->dimensions()[0], chunks = tiles->dimensions()[1];
  const bool gated = gate.element_count() > 0;
  const uint32_t* sources[] = {static_cast<const uint32_t*>(matrix.untyped_data()),
                               static_cast<const uint32_t*>(gate.untyped_data())};
  uint32_t* target = static_cast<uint32_t*>(tiles->untyped_data());
  llm_huge_pages(target, int64_t(tiles->size_bytes()));
  parallel(pool, panels, [&](int64_t panel) {
    const uint32_t* source = sources[gated ? panel % 2 : 0];
    const int64_t first = (gated ? panel / 2 : panel) * kTile;
    for (int64_t c = 0; c < chunks; ++c) {
      uint32_t* tile = target + (panel * chunks + c) * kTile * 16;
      for (int64_t r = 0; r < kTile; ++r)
        for (int64_t j = 0; j < 16; ++j) {
          const bool inside = first + r < rows && c * 16 + j < words;
          tile[j * kTile + r] = inside ? source[(first + r) * words + c * 16 + j] : 0;
        }
    }
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_pack, llm::pack,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>());
