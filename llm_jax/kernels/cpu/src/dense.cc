// The FFI call of a product of two plain matrices, either of them by rows or by columns: what training multiplies.
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kRowsOfTask = 128;  // at least, where rows are divided among tasks: each lays its panels out anew

// Vectors of K values, which a product contracts.
Operand operand(const ffi::AnyBuffer& matrix, bool by_columns) {
  const auto shape = matrix.dimensions();
  return {{matrix.untyped_data(), matrix.element_type() == ffi::DataType::BF16},
          shape[by_columns ? 1 : 0],
          shape[by_columns ? 0 : 1],
          by_columns};
}

// Memory that a thread keeps from call to call: a system's fresh pages cost more than what is written to them.
template <typename T>
T* scratch(int64_t count) {
  thread_local std::vector<T> memory;
  const int64_t line = 64 / sizeof(T);
  if (int64_t(memory.size()) < count + line) memory.resize(count + line);
  const uintptr_t start = reinterpret_cast<uintptr_t>(memory.data());
  return reinterpret_cast<T*>((start + 63) / 64 * 64);
}

ffi::Error dense(ffi::ThreadPool pool, ffi::AnyBuffer left, ffi::AnyBuffer right, ffi::Result<ffi::AnyBuffer> out,
                 ffi::Result<ffi::AnyBuffer> workspace, int64_t level, int64_t dtype, bool left_by_columns,
                 bool right_by_columns) {
  const Operand a = operand(left, left_by_columns), b = operand(right, right_by_columns);
  const int64_t depth = DType(dtype) == kFloat32 ? kTile : 2 * kTile, row_tiles = (a.count + kTile - 1) / kTile;
  Product p{};
  p.M = a.count, p.I = a.K, p.O = b.count, p.dtype = DType(dtype);
  p.panels = (b.count + kTile - 1) / kTile, p.chunks = (a.K + depth - 1) / depth;
  p.x = a.values, p.y = {out->untyped_data(), out->element_type() == ffi::DataType::BF16};
  p.rows = static_cast<uint8_t*>(workspace->untyped_data());
  const int64_t tile_bytes = workspace->element_count() / row_tiles, panel_bytes = p.chunks * kTileBytes;
  const Level& kernels = level_of(level);

  parallel(pool, row_tiles, [&](int64_t tile) {
    if (!a.by_columns) return kernels.prepare(p, tile);
    float* rows = scratch<float>(kTile * a.K);
    kernels.gather_rows(a, tile * kTile, rows);
    Product q = p;
    q.M = kTile, q.x = {rows, false}, q.rows = p.rows + tile * tile_bytes;
    kernels.prepare(q, 0);
  });

  // Columns in groups of panels; where there are fewer of them than threads keep busy, rows are divided too.
  const int64_t groups = (p.panels + kPanelsAtOnce - 1) / kPanelsAtOnce, wanted = 4 * pool.num_threads();
  const int64_t most = (p.M + kRowsOfTask - 1) / kRowsOfTask, even = (wanted + groups - 1) / groups;
  const int64_t parts = most < even ? most : even;
  const int64_t rows = ((p.M + parts - 1) / parts + kTile - 1) / kTile * kTile;
  parallel(pool, groups * parts, [&](int64_t task) {
    const int64_t first = task / parts * kPanelsAtOnce, row = task % parts * rows;
    if (row >= p.M) return;
    const int64_t count = first + kPanelsAtOnce < p.panels ? kPanelsAtOnce : p.panels - first;
    uint8_t* panels = scratch<uint8_t>(kPanelsAtOnce * panel_bytes);
    for (int64_t i = 0; i < count; ++i)
      kernels.gather_panel(b, p.dtype, (first + i) * kTile, panels + i * panel_bytes);
    Product q = p;
    q.M = row + rows < p.M ? rows : p.M - row;
    q.rows = p.rows + row / kTile * tile_bytes;
    q.y.data = static_cast<uint8_t*>(p.y.data) + row * p.O * (p.y.is_bfloat16 ? sizeof(uint16_t) : sizeof(float));
    q.weight = panels - first * panel_bytes;  // the kernels count panels from the matrix' first
    kernels.multiply(q, first, count);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_dense, llm::dense,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("dtype")
                                  .Attr<bool>("left_by_columns")
                                  .Attr<bool>("right_by_columns"));
