// The FFI call of a product of two plain matrices, either of them by rows or by columns: what training multiplies.
#include "kernels.h"
#include "operands.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kRowsOfTask = 128;  // of a block of the contracted axis they fit the L2 cache

Operand operand(const ffi::AnyBuffer& matrix, bool by_columns) {
  const auto shape = matrix.dimensions();
  const Floats values = floats(matrix);
  return {values, 0, shape[by_columns ? 1 : 0], shape[by_columns ? 0 : 1], shape[1], by_columns};
}

// Values k … k + depth - 1 of its vectors.
Operand slice(Operand a, int64_t k, int64_t depth) {
  a.first = a.by_columns ? k * a.stride : k;
  a.K = k + depth < a.K ? depth : a.K - k;
  return a;
}

int64_t up_to(int64_t count, int64_t step) { return (count + step - 1) / step; }

// The contracted axis in blocks of `depth`, to which sums are added in turn. Of each block, the operand with fewer
// vectors is laid out first, for all threads (`workspace`); tasks lay out their share of the other. Both are read from
// memory once, and from then on out of a cache. `total` is what the product is added to, in place, or empty.
ffi::Error dense(ffi::ThreadPool pool, ffi::AnyBuffer left, ffi::AnyBuffer right, ffi::AnyBuffer total,
                 ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> workspace,
                 ffi::Result<ffi::AnyBuffer> sums, int64_t level, int64_t dtype, int64_t depth, int64_t chunk_bytes,
                 bool left_by_columns, bool right_by_columns) {
  const bool adds = total.element_count() > 0;
  if (adds && total.untyped_data() != out->untyped_data())
    return ffi::Error::Internal("a product must be added in place");
  const Operand whole_a = operand(left, left_by_columns), whole_b = operand(right, right_by_columns);
  if (!adds && out->size_bytes() >= kLargeOutput) llm_huge_pages(out->untyped_data(), int64_t(out->size_bytes()));
  const Level& kernels = level_of(level);
  uint8_t* shared = static_cast<uint8_t*>(workspace->untyped_data());
  const Floats y = floats(*out);
  const Floats partial = {y.is_bfloat16 ? sums->untyped_data() : y.data, false};
  const int64_t M = whole_a.count, N = whole_b.count, panels = up_to(N, kTile);

  for (int64_t k = 0; k < whole_a.K; k += depth) {
    const Operand a = slice(whole_a, k, depth), b = slice(whole_b, k, depth);
    Product p{};
    p.M = M, p.I = a.K, p.O = N, p.dtype = DType(dtype), p.panels = panels;
    p.chunks = up_to(a.K, p.dtype == kFloat32 ? kTile : 2 * kTile);
    if (k > 0 || adds) p.residual = partial;
    p.y = k + depth < whole_a.K ? partial : y;
    const int64_t tile_bytes = p.chunks * kTile * chunk_bytes, panel_bytes = p.chunks * kTileBytes;

    const auto lay_out_rows = [&](int64_t tile, uint8_t* to) {
      float* rows = scratch<float>(kTile * a.K);
      kernels.gather_rows(a, tile * kTile, rows);
      Product q = p;
      q.M = kTile, q.x = {rows, false}, q.rows = to;
      kernels.prepare(q, 0);
    };
    const auto lay_out_panels = [&](int64_t first, int64_t count, uint8_t* to) {
      for (int64_t i = 0; i < count; ++i) kernels.gather_panel(b, p.dtype, (first + i) * kTile, to + i * panel_bytes);
    };
    // Rows from `row` on, which are at `rows`, with panels that begin at `weights`.
    const auto multiply = [&](int64_t row, int64_t count, uint8_t* rows, int64_t first, uint8_t* weights) {
      Product q = p;
      q.M = row + count < M ? count : M - row, q.rows = rows;
      q.y = rows_from(p.y, row, N), q.residual = rows_from(p.residual, row, N);
      q.weight = weights - first * panel_bytes;  // the kernels count panels from the matrix' first
      kernels.multiply(q, first, first + kPanelsAtOnce < panels ? kPanelsAtOnce : panels - first);
    };

    const int64_t wanted = 4 * pool.num_threads();
    if (M <= N) {  // columns in groups of panels; where there are few of them, rows are divided too
      parallel(pool, up_to(M, kTile), [&](int64_t tile) { lay_out_rows(tile, shared + tile * tile_bytes); });
      const int64_t groups = up_to(panels, kPanelsAtOnce), rows = rows_of_task(M, groups, wanted), parts = up_to(M, rows);
      parallel(pool, groups * parts, [&](int64_t task) {
        const int64_t first = task / parts * kPanelsAtOnce, row = task % parts * rows;
        uint8_t* weights = scratch<uint8_t>(kPanelsAtOnce * panel_bytes);
        lay_out_panels(first, first + kPanelsAtOnce < panels ? kPanelsAtOnce : panels - first, weights);
        multiply(row, rows, shared + row / kTile * tile_bytes, first, weights);
      });
    } else {
      parallel(pool, panels, [&](int64_t panel) { lay_out_panels(panel, 1, shared + panel * panel_bytes); });
      const int64_t even = up_to(up_to(M, wanted), kTile) * kTile, rows = even < kRowsOfTask ? even : kRowsOfTask;
      parallel(pool, up_to(M, rows), [&](int64_t task) {
        const int64_t row = task * rows, tiles = up_to(row + rows < M ? rows : M - row, kTile);
        uint8_t* own = scratch<uint8_t>(tiles * tile_bytes);
        for (int64_t i = 0; i < tiles; ++i) lay_out_rows(row / kTile + i, own + i * tile_bytes);
        for (int64_t first = 0; first < panels; first += kPanelsAtOnce)
          multiply(row, rows, own, first, shared + first * panel_bytes);
      });
    }
  }
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_dense, llm::dense,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("dtype")
                                  .Attr<int64_t>("depth")
                                  .Attr<int64_t>("chunk_bytes")
                                  .Attr<bool>("left_by_columns")
                                  .Attr<bool>("right_by_columns"));
