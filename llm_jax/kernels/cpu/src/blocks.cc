// The two calls for matrices in blocks of few bits: packing them from the rows of a GGUF file, and the product.
#include "blocks.h"

#include <cstring>

#include "operands.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

// A group of a row as it is packed.
struct Group {
  uint8_t value[kGroup];
  uint16_t scale, minimum;              // float16: of the group, or of all groups of a record
  uint8_t scale_integer[2], minimum_integer;
};

uint16_t half_at(const uint8_t* x) { return uint16_t(x[0] | x[1] << 8); }

constexpr uint16_t kSign = 0x8000;  // of a float16

// Scale and minimum of group i of 8, of 6 bits each, in the 12 bytes of a block of Q4_K or Q5_K.
void six_bits(const uint8_t* x, int i, uint8_t& scale, uint8_t& minimum) {
  if (i < 4) {
    scale = x[i] & 63, minimum = x[i + 4] & 63;
  } else {
    scale = (x[i + 4] & 15) | x[i - 4] >> 6 << 4, minimum = x[i + 4] >> 4 | x[i] >> 6 << 4;
  }
}

// Group i of a block, as ggml lays it out.
template <Format f>
void read_group(const uint8_t* x, int i, Group& to) {
  if constexpr (f == kQ8_0) {
    to.scale = half_at(x);
    for (int k = 0; k < kGroup; ++k) to.value[k] = x[2 + k] ^ 0x80;
  } else if constexpr (f == kQ4_0 || f == kQ4_1 || f == kQ5_0 || f == kQ5_1) {
    to.scale = half_at(x), x += 2;
    if constexpr (has_minimum(f)) to.minimum = half_at(x), x += 2;
    uint32_t fifth = 0;
    if constexpr (value_bits(f) == 5) std::memcpy(&fifth, x, 4), x += 4;
    for (int k = 0; k < 16; ++k) {
      to.value[k] = (x[k] & 15) | (fifth >> k & 1) << 4;
      to.value[k + 16] = x[k] >> 4 | (fifth >> (k + 16) & 1) << 4;
    }
  } else if constexpr (f == kQ4_K || f == kQ5_K) {
    to.scale = half_at(x), to.minimum = half_at(x + 2) ^ kSign;  // ggml subtracts it
    six_bits(x + 4, i, to.scale_integer[0], to.minimum_integer);
    const uint8_t *fifth = x + 16, *four = x + (f == kQ5_K ? 48 : 16) + i / 2 * 32;
    for (int k = 0; k < kGroup; ++k) {
      to.value[k] = i % 2 ? four[k] >> 4 : four[k] & 15;
      if constexpr (f == kQ5_K) to.value[k] |= (fifth[k] >> i & 1) << 4;
    }
  } else {
    to.scale = half_at(x + 208);
    std::memcpy(to.scale_integer, x + 192 + i * 2, 2);
    const uint8_t *four = x + i / 4 * 64 + i % 2 * 32, *two = x + 128 + i / 4 * 32;
    for (int k = 0; k < kGroup; ++k)
      to.value[k] = (i % 4 < 2 ? four[k] & 15 : four[k] >> 4) | (two[k] >> i % 4 * 2 & 3) << 4;
  }
}

template <Format f>
void pack_panel(const uint8_t* rows, int64_t row_bytes, int64_t count, int64_t groups, uint8_t* to) {
  constexpr int64_t kBlockGroups = block_values(f) / kGroup, kinds = has_minimum(f) ? 2 : 1;
  std::memset(to, 0, panel_bytes(f, groups));
  for (int64_t g = 0; g < groups; g += kRecordGroups) {
    const int64_t n = groups - g < kRecordGroups ? groups - g : kRecordGroups;
    uint8_t* scales = to + n * value_bytes(f);
    for (int64_t i = 0; i < n; ++i, to += value_bytes(f))
      for (int64_t o = 0; o < count; ++o) {
        Group group;
        read_group<f>(rows + o * row_bytes + (g + i) / kBlockGroups * block_bytes(f), int((g + i) % kBlockGroups), group);
        for (int j = 0; j < kOperands; ++j) {
          uint32_t four;
          std::memcpy(&four, group.value + j * 4, 4);
          const auto put = [&](int64_t at, uint32_t bits) {
            uint32_t word;
            std::memcpy(&word, to + at + o * 4, 4);
            word |= bits;
            std::memcpy(to + at + o * 4, &word, 4);
          };
          if constexpr (value_bits(f) == 8) {
            put(j * 64, four);
          } else {
            put(j % 4 * 64, (four & 0x0f0f0f0fu) << j / 4 * 4);
            if constexpr (value_bits(f) == 5) put(256, (four >> 4 & 0x01010101u) << j);
            if constexpr (value_bits(f) == 6) put(256 + j / 4 * 64, (four >> 4 & 0x03030303u) << j % 4 * 2);
          }
        }
        if constexpr (has_factor(f)) {
          std::memcpy(scales + o * 2, &group.scale, 2);
          uint8_t* integers = scales + kinds * kHalves + i * kinds * scales_of(f) * 16 + o;
          for (int part = 0; part < scales_of(f); ++part) integers[part * 16] = group.scale_integer[part];
          if constexpr (has_minimum(f)) {
            std::memcpy(scales + kHalves + o * 2, &group.minimum, 2);
            integers[16] = group.minimum_integer;
          }
        } else {
          std::memcpy(scales + i * kinds * kHalves + o * 2, &group.scale, 2);
          if constexpr (has_minimum(f)) std::memcpy(scales + (i * kinds + 1) * kHalves + o * 2, &group.minimum, 2);
        }
      }
    to = scales + scale_bytes(f, n);
  }
}

using PackPanel = void (*)(const uint8_t*, int64_t, int64_t, int64_t, uint8_t*);
constexpr PackPanel kPackPanel[] = {pack_panel<kQ4_0>, pack_panel<kQ4_1>, pack_panel<kQ5_0>, pack_panel<kQ5_1>,
                                    pack_panel<kQ8_0>, pack_panel<kQ4_K>, pack_panel<kQ5_K>, pack_panel<kQ6_K>};

ffi::Error block_product(ffi::ThreadPool pool, ffi::AnyBuffer x, ffi::AnyBuffer tiles, ffi::Buffer<ffi::F32> bias,
                         ffi::Buffer<ffi::F32> norm_weight, ffi::Buffer<ffi::F32> norm_bias, ffi::AnyBuffer residual,
                         ffi::Result<ffi::AnyBuffer> y, ffi::Result<ffi::AnyBuffer> workspace, int64_t level,
                         int64_t start, ffi::Span<const int64_t> formats, ffi::Span<const int64_t> outputs, int64_t activation,
                         int64_t norm, bool gated, float epsilon) {
  BlockProduct p{};
  Product& base = p.base;
  base.M = x.dimensions()[0], base.I = x.dimensions()[1], base.O = y->dimensions()[1];
  base.dtype = kFloat32, base.activation = Activation(activation), base.norm = Norm(norm);
  base.gated = gated, base.epsilon = epsilon;
  base.x = floats(x), base.y = floats(*y), base.residual = floats(residual);
  base.bias = pointer(bias), base.norm_weight = pointer(norm_weight), base.norm_bias = pointer(norm_bias);
  base.rows = static_cast<uint8_t*>(workspace->untyped_data());
  p.groups = (base.I + kGroup - 1) / kGroup, p.segments = int64_t(formats.size());
  if (p.segments > kMaxSegments) return ffi::Error::InvalidArgument("too many formats in one matrix");
  const uint8_t* at = static_cast<const uint8_t*>(tiles.untyped_data()) + start;
  for (int64_t s = 0; s < p.segments; ++s) {
    const Format format = Format(formats[s]);
    const int64_t panels = (outputs[s] + kTile - 1) / kTile;
    p.segment[s] = {format, panels, at};
    base.panels += panels, at += panels * panel_bytes(format, p.groups);
  }
  if (y->size_bytes() >= kLargeOutput) llm_huge_pages(y->untyped_data(), int64_t(y->size_bytes()));
  const Level& kernels = level_of(level);
  parallel(pool, (base.M + kTile - 1) / kTile, [&](int64_t tile) { kernels.prepare_blocks(p, tile); }, base.M);
  constexpr int64_t kPair = 2;  // panels that are multiplied together: of larger tasks one thread may have more
  parallel(pool, (base.panels + kPair - 1) / kPair, [&](int64_t task) {
    const int64_t first = task * kPair, left = base.panels - first;
    kernels.multiply_blocks(p, first, left < kPair ? left : kPair);
  }, base.M);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace llm

// Packs the rows of a matrix, of whole blocks, on so many threads.
extern "C" void llm_pack_blocks(int64_t format, const uint8_t* rows, int64_t outputs, int64_t inputs, uint8_t* tiles,
                                int64_t threads) {
  using namespace llm;
  const Format f = Format(format);
  const int64_t panels = (outputs + kTile - 1) / kTile, groups = inputs / kGroup;
  const int64_t row_bytes = inputs / block_values(f) * block_bytes(f);
  llm_huge_pages(tiles, panels * panel_bytes(f, groups));
  parallel_on_workers(threads, panels, [&](int64_t panel) {
    const int64_t first = panel * kTile, count = outputs - first < kTile ? outputs - first : kTile;
    kPackPanel[f](rows + first * row_bytes, row_bytes, count, groups, tiles + panel * panel_bytes(f, groups));
  });
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_block_product, llm::block_product,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Attr<int64_t>("level")
                                  .Attr<int64_t>("start")
                                  .Attr<xla::ffi::Span<const int64_t>>("formats")
                                  .Attr<xla::ffi::Span<const int64_t>>("outputs")
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("norm")
                                  .Attr<bool>("gated")
                                  .Attr<float>("epsilon"));
