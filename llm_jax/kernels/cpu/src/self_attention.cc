// The FFI calls of attention of the tokens of a batch over each other, and of its gradient.
#include "kernels.h"
#include "operands.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace llm {
namespace {

namespace ffi = xla::ffi;

using F32 = ffi::Buffer<ffi::DataType::F32>;
using S32 = ffi::Buffer<ffi::DataType::S32>;

constexpr int64_t kTasks = 4;  // of a thread, at least: those of late queries take longer

// The operands and attributes of both calls, first and in this order.
auto bind() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .Arg<ffi::AnyBuffer>()
      .Arg<F32>()
      .Arg<F32>()
      .Arg<S32>()
      .Arg<S32>()
      .Arg<F32>()
      .Arg<F32>()
      .Attr<int64_t>("level")
      .Attr<int64_t>("kv_heads")
      .Attr<int64_t>("window")
      .Attr<float>("scale")
      .Attr<float>("softcap")
      .Attr<bool>("is_causal");
}

// `run` gets the pool, the kernels, what both calls are given, and what it alone is.
template <typename... Rest>
auto call(void (*run)(ffi::ThreadPool&, const Level&, SelfAttention, Rest...)) {
  return [run](ffi::ThreadPool pool, ffi::AnyBuffer qkv, F32 sinks, F32 slopes, S32 position, S32 segment, F32 cosine,
               F32 sine, int64_t level, int64_t kv_heads, int64_t window, float scale, float softcap, bool is_causal,
               Rest... rest) {
    const auto shape = qkv.dimensions();
    SelfAttention a{};
    a.B = shape[0], a.T = shape[1], a.N = shape[2] - 2 * kv_heads, a.K = kv_heads, a.H = shape[3];
    a.window = window, a.scale = scale, a.softcap = softcap, a.is_causal = is_causal;
    a.qkv = floats(qkv), a.position = position.typed_data(), a.segment = pointer(segment);
    a.slopes = pointer(slopes), a.sinks = pointer(sinks), a.cosine = pointer(cosine), a.sine = pointer(sine);
    a.rotary = a.cosine == nullptr ? 0 : cosine.dimensions()[2];
    run(pool, level_of(level), a, rest...);
    return ffi::Error::Success();
  };
}

void self_attention(ffi::ThreadPool& pool, const Level& kernels, SelfAttention a, ffi::Result<ffi::AnyBuffer> out,
                    ffi::Result<F32> logsumexp) {
  a.out = floats(*out), a.logsumexp = logsumexp->typed_data();
  const int64_t blocks = (a.T + kChunk - 1) / kChunk, heads = a.B * a.K, wanted = kTasks * pool.num_threads();
  const int64_t even = (wanted + heads - 1) / heads, parts = even < blocks ? even : blocks;
  parallel(pool, heads * parts, [&](int64_t task) {
    const int64_t head = task / parts, part = task % parts;
    kernels.self_attend(a, head / a.K, head % a.K, blocks * part / parts, blocks * (part + 1) / parts,
                        scratch<float>(self_attention_floats(a, false)));
  });
}

void self_attention_gradient(ffi::ThreadPool& pool, const Level& kernels, SelfAttention a, ffi::AnyBuffer out,
                             F32 logsumexp, ffi::AnyBuffer of_out, ffi::Result<ffi::AnyBuffer> of_qkv,
                             ffi::Result<F32> mean) {
  a.out = floats(out), a.logsumexp = logsumexp.typed_data(), a.mean = mean->typed_data();
  a.of_out = floats(of_out), a.of_qkv = floats(*of_qkv);
  parallel(pool, a.B * a.K, [&](int64_t task) {
    kernels.self_attention_gradient(a, task / a.K, task % a.K, scratch<float>(self_attention_floats(a, true)));
  });
}

}  // namespace
}  // namespace llm

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_self_attention, llm::call(llm::self_attention),
                              llm::bind().Ret<xla::ffi::AnyBuffer>().Ret<llm::F32>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(llm_self_attention_gradient, llm::call(llm::self_attention_gradient),
                              llm::bind()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Arg<llm::F32>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .Ret<llm::F32>());
