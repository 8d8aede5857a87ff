// The two FFI calls: a product with packed weights, and attention of new tokens over the KV cache.
#include <cstring>
#include <vector>

#include "kernels.h"
#include "operands.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

constexpr int64_t kTasks = 8;  // of a thread, at least, where there are rows enough

// The blocks from the first one of a layer on.
Cache cache(const ffi::AnyBuffer& buffer, int64_t first_block) {
  const ffi::DataType type = buffer.element_type();
  const DType dtype = type == ffi::DataType::S8 ? kInt8 : type == ffi::DataType::BF16 ? kBFloat16 : kFloat32;
  const int64_t block_bytes = int64_t(buffer.size_bytes()) / buffer.dimensions()[0];
  return {static_cast<char*>(buffer.untyped_data()) + first_block * block_bytes, dtype};
}

using F32 = ffi::Buffer<ffi::DataType::F32>;
using S32 = ffi::Buffer<ffi::DataType::S32>;

ffi::Error product(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer tiles, F32 scale, S32 column_sum, F32 bias,
                   F32 norm_weight, F32 norm_bias, ffi::AnyBuffer residual, ffi::Result<ffi::AnyBuffer> y,
                   ffi::Result<ffi::AnyBuffer> workspace, int64_t level, int64_t dtype, int64_t activation,
                   int64_t norm, bool gated, float epsilon) {
  const auto shape = tiles.dimensions();  // [panels, chunks, 16, 16, values per 4 bytes]
  Product p{};
  p.M = x.dimensions()[0], p.I = x.dimensions()[1], p.O = y->dimensions()[1];
  p.panels = shape[0], p.chunks = shape[1];
  p.dtype = DType(dtype), p.activation = Activation(activation), p.norm = Norm(norm);
  p.gated = gated, p.epsilon = epsilon;
  p.x = floats(x), p.y = floats(*y), p.residual = floats(residual);
  p.weight = static_cast<const uint8_t*>(tiles.untyped_data());
  p.scale = pointer(scale), p.column_sum = pointer(column_sum), p.bias = pointer(bias);
  p.norm_weight = pointer(norm_weight), p.norm_bias = pointer(norm_bias);
  const int64_t row_tiles = (p.M + kTile - 1) / kTile;
  const int64_t tile_bytes = workspace->element_count() / row_tiles - kTile * sizeof(float);
  p.rows = static_cast<uint8_t*>(workspace->untyped_data());
  p.row_scale = reinterpret_cast<float*>(p.rows + row_tiles * tile_bytes);

  if (workspace->size_bytes() >= kLargeOutput) llm_huge_pages(p.rows, int64_t(workspace->size_bytes()));
  if (y->size_bytes() >= kLargeOutput) llm_huge_pages(y->untyped_data(), int64_t(y->size_bytes()));
  const Level& kernels = level_of(level);
  parallel(pool, row_tiles, [&](int64_t tile) { kernels.prepare(p, tile); }, p.M);
  const int64_t groups = (p.panels + kPanelsAtOnce - 1) / kPanelsAtOnce;
  const int64_t rows = rows_of_task(p.M, groups, kTasks * pool.num_threads()), parts = (p.M + rows - 1) / rows;
  parallel(pool, groups * parts, [&](int64_t task) {  // those of the same rows in turn: they stay in the L2 cache
    const int64_t first = task % groups * kPanelsAtOnce, row = task / groups * rows;
    Product q = p;
    q.M = row + rows < p.M ? rows : p.M - row;
    q.rows = p.rows + row / kTile * tile_bytes, q.row_scale = p.row_scale + row;
    q.y = rows_from(p.y, row, p.O), q.residual = rows_from(p.residual, row, p.O);
    kernels.multiply(q, first, first + kPanelsAtOnce < p.panels ? kPanelsAtOnce : p.panels - first);
  }, p.M);
  return ffi::Error::Success();
}

// The queries of all sequences in tasks of at most kQueryRows, or of fewer if there would be fewer tasks than threads.
std::vector<Queries> tasks_of(const Attention& a, int64_t threads) {
  const int64_t G = a.N / a.K;
  int64_t heads = 0;
  for (int64_t r = 0; r < a.R; ++r) heads += a.new_tokens[r] > 0 ? a.K : 0;
  std::vector<Queries> tasks;
  for (int64_t r = 0; r < a.R; ++r) {
    const int64_t queries = a.new_tokens[r] * G, parts = heads < threads ? (threads + heads - 1) / heads : 1;
    const int64_t even = (queries + parts - 1) / parts, size = even < kQueryRows ? even : kQueryRows;
    for (int64_t head = 0; head < a.K && queries > 0; ++head)
      for (int64_t first = 0; first < queries; first += size)
        tasks.push_back({r, head, first, first + size < queries ? size : queries - first});
  }
  return tasks;
}

// Padding tokens have zeros as output.
void zero_padding(const Attention& a) {
  const int64_t bytes = a.N * a.H * (a.out.is_bfloat16 ? sizeof(uint16_t) : sizeof(float));
  for (int64_t r = 0; r < a.R; ++r) {
    const int64_t first = a.starts[r] + a.new_tokens[r];
    std::memset(static_cast<char*>(a.out.data) + first * bytes, 0, (a.starts[r + 1] - first) * bytes);
  }
}

ffi::Error attention(ffi::ThreadPool pool, ffi::AnyBuffer qkv, ffi::AnyBuffer keys, ffi::AnyBuffer values, S32 blocks,
                     S32 starts, S32 lengths, S32 new_tokens, F32 slopes, F32 cosine, F32 sine,
                     ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> new_keys,
                     ffi::Result<ffi::AnyBuffer> new_values, int64_t level, int64_t first_block,
                     int64_t window, float scale, float softcap) {
  if (new_keys->untyped_data() != keys.untyped_data() || new_values->untyped_data() != values.untyped_data())
    return ffi::Error::Internal("the cache must be updated in place");
  const auto shape = keys.dimensions();
  Attention a{};
  a.R = lengths.element_count(), a.N = out->dimensions()[2], a.K = shape[1], a.H = out->dimensions()[3];
  a.block_tokens = shape[2], a.max_blocks = blocks.dimensions()[1], a.blocks = blocks.typed_data();
  a.window = window, a.scale = scale, a.softcap = softcap;
  a.rotary = cosine.element_count() > 0 ? cosine.dimensions()[2] : 0;
  a.qkv = floats(qkv), a.out = floats(*out);
  a.keys = cache(keys, first_block), a.values = cache(values, first_block);
  a.starts = starts.typed_data(), a.lengths = lengths.typed_data(), a.new_tokens = new_tokens.typed_data();
  a.slopes = pointer(slopes), a.cosine = pointer(cosine), a.sine = pointer(sine);
  if (a.block_tokens % kChunk != 0 && a.max_blocks != 1)
    return ffi::Error::InvalidArgument("a block of the cache must hold whole chunks");
  const Level& kernels = level_of(level);
  zero_padding(a);
  const std::vector<Queries> tasks = tasks_of(a, pool.num_threads());
  // A head in a single task writes its keys and values there; a head that is split writes them before any attention.
  std::vector<Queries> split;
  const auto is_whole = [&](const Queries& task) { return task.count == a.new_tokens[task.sequence] * (a.N / a.K); };
  for (const Queries& task : tasks)
    if (task.first == 0 && !is_whole(task)) split.push_back(task);
  const int64_t rows = a.starts[a.R];
  parallel(pool, int64_t(split.size()), [&](int64_t i) { kernels.write(a, split[i].sequence, split[i].kv_head); }, rows);
  parallel(pool, int64_t(tasks.size()), [&](int64_t i) {
    const Queries& task = tasks[i];
    if (is_whole(task)) kernels.write(a, task.sequence, task.kv_head);
    kernels.attend(a, task, i + 1 < int64_t(tasks.size()) ? &task + 1 : nullptr);
  }, rows);
  return ffi::Error::Success();
}

// Leaves its result as the system gave it, so that memory is taken as it is first written.
ffi::Error empty(ffi::Result<ffi::AnyBuffer>) { return ffi::Error::Success(); }

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_empty, llm::empty, xla::ffi::Ffi::Bind().Ret<xla::ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_product, llm::product,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::S32>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::F32>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("dtype")
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("norm")
                                  .Attr<bool>("gated")
                                  .Attr<float>("epsilon"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_attention, llm::attention,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::S32>()
                                  .Arg<llm::S32>()
                                  .Arg<llm::S32>()
                                  .Arg<llm::S32>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::F32>()
                                  .Arg<llm::F32>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("first_block")
                                  .Attr<int64_t>("window")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap"));
