// What the FFI calls read their operands as.
#pragma once

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace llm {

// Without data for an empty placeholder of an optional operand.
inline Floats floats(const xla::ffi::AnyBuffer& buffer) {
  return {buffer.element_count() > 0 ? buffer.untyped_data() : nullptr,
          buffer.element_type() == xla::ffi::DataType::BF16};
}

// Null for an empty placeholder of an optional operand.
template <xla::ffi::DataType type>
auto pointer(xla::ffi::Buffer<type>& buffer) {
  return buffer.element_count() > 0 ? buffer.typed_data() : nullptr;
}

}  // namespace llm
