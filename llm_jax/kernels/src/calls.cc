// The two calls that XLA makes: a product with packed weights, and attention of new tokens over the cache.
#include <cstring>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

const Level& level_of(int64_t level) {
  return level == kLevelAmx ? kAmx : level == kLevelAvx512 ? kAvx512 : kAvx2;
}

Floats floats(const ffi::AnyBuffer& buffer) {
  const bool any = buffer.element_count() > 0;
  return {any ? buffer.untyped_data() : nullptr, buffer.element_type() == ffi::DataType::BF16};
}

Cache cache(const ffi::AnyBuffer& buffer) {
  const ffi::DataType type = buffer.element_type();
  return {buffer.untyped_data(), type == ffi::DataType::S8 ? kInt8 : type == ffi::DataType::BF16 ? kBFloat16 : kFloat32};
}

// Optional operands come as empty arrays.
template <ffi::DataType type>
auto pointer(ffi::Buffer<type>& buffer) {
  return buffer.element_count() > 0 ? buffer.typed_data() : nullptr;
}

using F32 = ffi::Buffer<ffi::DataType::F32>;
using S32 = ffi::Buffer<ffi::DataType::S32>;

ffi::Error product(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer tiles, F32 scale, S32 column_sum, F32 bias,
                   F32 norm_weight, F32 norm_bias, ffi::AnyBuffer residual, ffi::Result<ffi::AnyBuffer> y,
                   ffi::Result<ffi::AnyBuffer> workspace, int64_t level, int64_t kind, int64_t activation,
                   int64_t norm, bool gated, float epsilon) {
  const auto shape = tiles.dimensions();  // [panels, chunks, 16, 16, values per 4 bytes]
  Product p{};
  p.M = x.dimensions()[0], p.K = x.dimensions()[1], p.N = y->dimensions()[1];
  p.panels = shape[0], p.chunks = shape[1];
  p.kind = Kind(kind), p.activation = Activation(activation), p.norm = Norm(norm);
  p.gated = gated, p.epsilon = epsilon;
  p.x = floats(x), p.y = floats(*y), p.residual = floats(residual);
  p.weight = static_cast<const uint8_t*>(tiles.untyped_data());
  p.scale = pointer(scale), p.column_sum = pointer(column_sum), p.bias = pointer(bias);
  p.norm_weight = pointer(norm_weight), p.norm_bias = pointer(norm_bias);
  const int64_t row_tiles = (p.M + kTile - 1) / kTile;
  p.rows = static_cast<uint8_t*>(workspace->untyped_data());
  p.row_scale = reinterpret_cast<float*>(p.rows + workspace->element_count() - row_tiles * kTile * sizeof(float));

  const Level& run = level_of(level);
  if (row_tiles == 1) {
    run.prepare(p, 0);
  } else {
    parallel(pool, row_tiles, [&](int64_t tile) { run.prepare(p, tile); });
  }
  constexpr int64_t kGroup = 4;  // panels of a piece
  parallel(pool, (p.panels + kGroup - 1) / kGroup, [&](int64_t piece) {
    const int64_t first = piece * kGroup;
    run.multiply(p, first, first + kGroup < p.panels ? kGroup : p.panels - first);
  });
  return ffi::Error::Success();
}

// Queries of one row that share a key head.
struct Piece {
  int64_t row, head, first, count;
};

// All rows' queries in pieces of at most kQueryRows, smaller ones where there would not be one for every thread.
std::vector<Piece> pieces_of(const Attention& a, int64_t threads) {
  const int64_t G = a.N / a.K;
  int64_t heads = 0;
  for (int64_t b = 0; b < a.B; ++b) heads += a.live[b] > 0 ? a.K : 0;
  std::vector<Piece> pieces;
  for (int64_t b = 0; b < a.B; ++b) {
    const int64_t queries = a.live[b] * G, wanted = heads < threads ? (threads + heads - 1) / heads : 1;
    const int64_t even = (queries + wanted - 1) / wanted, size = even < kQueryRows ? even : kQueryRows;
    for (int64_t head = 0; head < a.K && queries > 0; ++head)
      for (int64_t first = 0; first < queries; first += size)
        pieces.push_back({b, head, first, first + size < queries ? size : queries - first});
  }
  return pieces;
}

// What does not count gives zeros.
void silence(const Attention& a) {
  const int64_t bytes = a.N * a.H * (a.out.narrow ? sizeof(uint16_t) : sizeof(float));
  for (int64_t b = 0; b < a.B; ++b) {
    const int64_t first = a.starts[b] + a.live[b];
    std::memset(static_cast<char*>(a.out.data) + first * bytes, 0, (a.starts[b + 1] - first) * bytes);
  }
}

ffi::Error attention(ffi::ThreadPool pool, ffi::AnyBuffer qkv, ffi::AnyBuffer keys, ffi::AnyBuffer values, S32 starts,
                     S32 lengths, S32 live, S32 first_row, F32 slopes, F32 cosine, F32 sine,
                     ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> new_keys,
                     ffi::Result<ffi::AnyBuffer> new_values, int64_t level, int64_t window, float scale,
                     float softcap) {
  if (new_keys->untyped_data() != keys.untyped_data() || new_values->untyped_data() != values.untyped_data())
    return ffi::Error::Internal("the cache must be updated in place");
  const auto shape = keys.dimensions();
  Attention a{};
  a.B = lengths.element_count(), a.longest = out->dimensions()[1], a.N = out->dimensions()[2];
  a.K = shape[1], a.S = shape[2], a.H = out->dimensions()[3];
  a.window = window, a.scale = scale, a.softcap = softcap;
  a.rotary = cosine.element_count() > 0 ? cosine.dimensions()[2] : 0;
  a.qkv = floats(qkv), a.out = floats(*out), a.keys = cache(keys), a.values = cache(values);
  const int64_t skipped = first_row.typed_data()[0] * int64_t(keys.size_bytes()) / shape[0];
  a.keys.data = static_cast<char*>(a.keys.data) + skipped, a.values.data = static_cast<char*>(a.values.data) + skipped;
  a.starts = starts.typed_data(), a.lengths = lengths.typed_data(), a.live = live.typed_data(), a.slopes = pointer(slopes);
  a.cosine = pointer(cosine), a.sine = pointer(sine);
  const Level& run = level_of(level);
  silence(a);
  const std::vector<Piece> pieces = pieces_of(a, pool.num_threads());
  // What is one piece writes for itself; where there are more, all must have been written before the first attends.
  std::vector<Piece> cut;
  const auto is_whole = [&](const Piece& piece) { return piece.count == a.live[piece.row] * (a.N / a.K); };
  for (const Piece& piece : pieces)
    if (piece.first == 0 && !is_whole(piece)) cut.push_back(piece);
  parallel(pool, int64_t(cut.size()), [&](int64_t i) { run.write(a, cut[i].row, cut[i].head); });
  parallel(pool, int64_t(pieces.size()), [&](int64_t i) {
    const Piece& piece = pieces[i];
    if (is_whole(piece)) run.write(a, piece.row, piece.head);
    run.attend(a, piece.row, piece.head, piece.first, piece.count);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

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
                                  .Attr<int64_t>("kind")
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
                                  .Attr<int64_t>("window")
                                  .Attr<float>("scale")
                                  .Attr<float>("softcap"));
