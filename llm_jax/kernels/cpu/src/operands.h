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

// The rows of a matrix from `row` on.
inline Floats rows_from(Floats matrix, int64_t row, int64_t columns) {
  const int64_t bytes = row * columns * (matrix.is_bfloat16 ? sizeof(uint16_t) : sizeof(float));
  return {matrix.data == nullptr ? nullptr : static_cast<uint8_t*>(matrix.data) + bytes, matrix.is_bfloat16};
}

// Null for an empty placeholder of an optional operand.
template <xla::ffi::DataType type>
auto pointer(xla::ffi::Buffer<type>& buffer) {
  return buffer.element_count() > 0 ? buffer.typed_data() : nullptr;
}

}  // namespace llm
