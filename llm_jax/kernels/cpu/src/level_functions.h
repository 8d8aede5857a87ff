// The functions of a level, from what it gives: Traits for products, Lanes for attention, BlockLanes for blocks.
#pragma once

#include "argmax.h"
#include "attend.h"
#include "block_rows.h"
#include "dense.h"
#include "low_rank.h"
#include "product.h"
#include "self_attention.h"
#include "update.h"

namespace llm {
namespace {

template <typename Traits, typename Lanes, typename BlockLanes>
constexpr Level level_functions() {
  return {prepare<Traits>,    multiply_any<Traits>,       write_any,
          attend<Lanes>,      prepare_blocks<BlockLanes>, multiply_blocks<BlockLanes>,
          gather_rows,        gather_panel,               low_rank<Lanes>,
          self_attend<Lanes>, self_attention_gradient<Lanes>,
          sum_of_squares,     adamw,                      best_of};
}

}  // namespace
}  // namespace llm
