// Products, also with blocks of few bits, low-rank factors, updates and attention of the levels of aarch64 that this
// processor has, against plain loops in double; and the loops that threads share. `make test-aarch64` compiles it for
// aarch64 and runs it under qemu, where no jaxlib need run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "blocks.h"
#include "kernels.h"
#include "parallel.h"

extern "C" int64_t llm_level();

namespace llm {
namespace {

std::mt19937 random_bits(0);
int checks = 0;

float normal() { return std::normal_distribution<float>()(random_bits); }

uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

float from_bfloat16(uint16_t x) { return float_of(uint32_t(x) << 16); }

void expect(bool is_true, const char* what, int64_t level, int dtype, int64_t size) {
  ++checks;
  if (is_true) return;
  std::printf("level %d, dtype %d, size %d: %s\n", int(level), dtype, int(size), what);
  std::exit(1);
}

bool near(double value, double expected, double scale, double tolerance) {
  return std::isfinite(value) && std::fabs(value - expected) <= tolerance * scale;
}

// A matrix [O, I] as a level sees it, in tiles, and as plain numbers.
struct Matrix {
  int64_t O, I, panels, chunks;
  std::vector<double> values;  // without scales
  std::vector<uint8_t> tiles;
  std::vector<float> scale;
};

Matrix matrix(int64_t O, int64_t I, DType dtype) {
  const int64_t bytes = dtype == kFloat32 ? 4 : dtype == kBFloat16 ? 2 : 1, chunk = 64 / bytes;
  Matrix w{O, I, (O + kTile - 1) / kTile, (I + chunk - 1) / chunk, std::vector<double>(O * I), {}, {}};
  w.tiles.resize(w.panels * w.chunks * kTileBytes);
  w.scale.resize(w.panels * kTile);
  for (int64_t o = 0; o < O; ++o) {
    w.scale[o] = 0.01f + 0.001f * float(o);
    for (int64_t i = 0; i < I; ++i) {
      const int64_t byte = i * bytes, word = byte / 4;
      uint8_t* to = w.tiles.data() + (o / kTile * w.chunks + word / 16) * kTileBytes + word % 16 * kGroupBytes +
                    o % kTile * 4 + byte % 4;
      const float x = normal();
      if (dtype == kFloat32) {
        std::memcpy(to, &x, 4);
        w.values[o * I + i] = x;
      } else if (dtype == kBFloat16) {
        const uint16_t narrow = to_bfloat16(x);
        std::memcpy(to, &narrow, 2);
        w.values[o * I + i] = from_bfloat16(narrow);
      } else {
        *reinterpret_cast<int8_t*>(to) = int8_t(random_bits() % 255 - 127);
        w.values[o * I + i] = *reinterpret_cast<int8_t*>(to);
      }
    }
  }
  return w;
}

std::vector<float> multiply(int64_t level, const Matrix& w, DType dtype, const float* x, int64_t M) {
  std::vector<float> y(M * w.O);
  const int64_t tiles = (M + kTile - 1) / kTile;
  std::vector<uint8_t> rows(tiles * w.chunks * kTile * 128 + 64);
  std::vector<float> row_scale(tiles * kTile);
  Product p{};
  p.M = M, p.O = w.O, p.I = w.I, p.panels = w.panels, p.chunks = w.chunks, p.dtype = dtype;
  p.x = {const_cast<float*>(x), false}, p.y = {y.data(), false};
  p.weight = w.tiles.data(), p.scale = w.scale.data();
  p.rows = rows.data(), p.row_scale = row_scale.data();
  for (int64_t tile = 0; tile < tiles; ++tile) level_of(level).prepare(p, tile);
  for (int64_t panel = 0; panel < p.panels; panel += kPanelsAtOnce)
    level_of(level).multiply(p, panel, p.panels - panel < kPanelsAtOnce ? p.panels - panel : kPanelsAtOnce);
  return y;
}

void test_product(int64_t level, DType dtype, int64_t M, int64_t O, int64_t I) {
  const Matrix w = matrix(O, I, dtype);
  std::vector<float> x(M * I);
  for (float& value : x) value = normal();
  const std::vector<float> y = multiply(level, w, dtype, x.data(), M);
  for (int64_t m = 0; m < M; ++m) {
    float largest = 0.0f;
    for (int64_t i = 0; i < I; ++i) largest = std::fmax(largest, std::fabs(x[m * I + i]));
    for (int64_t o = 0; o < O; ++o) {
      double sum = 0.0, scale = 0.0, ties = 0.0;
      for (int64_t i = 0; i < I; ++i) {
        const float value = x[m * I + i];
        const double steps = double(value) * (127.0f / largest), weight = w.values[o * I + i];
        const double term = (dtype == kFloat32    ? value
                             : dtype == kBFloat16 ? from_bfloat16(to_bfloat16(value))
                                                  : std::nearbyint(steps)) * weight;
        // Where a compiler makes one instruction of the product and its rounding, what is near a half goes either way.
        if (dtype == kInt8 && std::fabs(std::fabs(steps - std::trunc(steps)) - 0.5) < 2e-5) ties += std::fabs(weight);
        sum += term, scale += std::fabs(term);
      }
      const double factor = dtype == kInt8 ? double(largest) / 127.0 * w.scale[o] : 1.0;
      const double tolerance = (2e-6 * scale + ties) * factor + 1e-30;
      expect(near(y[m * O + o], sum * factor, tolerance, 1.0), "product", level, dtype, M);
    }
    const std::vector<float> alone = multiply(level, w, dtype, x.data() + m * I, 1);
    expect(std::memcmp(alone.data(), y.data() + m * O, O * 4) == 0, "a row alone differs", level, dtype, M);
  }
}

// Factors of three slots, of which the rows have the last, beside a residual.
void test_low_rank(int64_t level, bool is_bfloat16, int64_t I, int64_t O) {
  constexpr int64_t kSlots = 3, kRank = 5, kRows = 3, kSlot = kSlots - 1;
  std::vector<float> values[2] = {std::vector<float>(kSlots * kRank * I), std::vector<float>(kSlots * kRank * O)};
  std::vector<uint16_t> narrow[2];
  for (int i = 0; i < 2; ++i)
    for (float& value : values[i]) {
      narrow[i].push_back(to_bfloat16(value = normal()));
      if (is_bfloat16) value = from_bfloat16(narrow[i].back());
    }
  std::vector<float> x(kRows * I), residual(kRows * O), y(kRows * O);
  for (float& value : x) value = normal();
  for (float& value : residual) value = normal();
  const std::vector<int32_t> slots(kRows, kSlot), rows = {2, 0, 1};
  LowRank f{};
  f.base.M = kRows, f.base.I = I, f.base.O = O;
  f.base.x = {x.data(), false}, f.base.residual = {residual.data(), false}, f.base.y = {y.data(), false};
  f.rank = kRank, f.slots = slots.data();
  f.a = {is_bfloat16 ? static_cast<void*>(narrow[0].data()) : values[0].data(), is_bfloat16};
  f.b = {is_bfloat16 ? static_cast<void*>(narrow[1].data()) : values[1].data(), is_bfloat16};
  level_of(level).low_rank(f, rows.data(), kRows);
  for (int64_t m = 0; m < kRows; ++m)
    for (int64_t o = 0; o < O; ++o) {
      double sum = residual[m * O + o], scale = std::fabs(sum);
      for (int64_t q = kSlot * kRank; q < (kSlot + 1) * kRank; ++q)
        for (int64_t i = 0; i < I; ++i) {
          const double term = double(x[m * I + i]) * values[0][q * I + i] * values[1][q * O + o];
          sum += term, scale += std::fabs(term);
        }
      expect(near(y[m * O + o], sum, scale, 2e-6), "low-rank factors", level, is_bfloat16, O);
    }
}

// One step of AdamW, and a sum of squares.
void test_update(int64_t level, int64_t count) {
  std::vector<float> parameter(count), mean(count), square(count), gradient(count);
  for (int64_t i = 0; i < count; ++i)
    parameter[i] = normal(), mean[i] = normal(), square[i] = std::fabs(normal()), gradient[i] = normal();
  const std::vector<float> p = parameter, m = mean, v = square;
  const Update u{parameter.data(), {mean.data(), false}, square.data(), gradient.data(), 0.01f, 0.5f, 0.9f, 0.95f,
                 1e-8f, 0.1f, 2.0f, 3.0f};
  level_of(level).adamw(u, 0, count);
  double squares = 0.0;
  for (int64_t i = 0; i < count; ++i) {
    squares += double(gradient[i]) * gradient[i];
    const double g = gradient[i] * 0.5, new_m = 0.9 * m[i] + 0.1 * g, new_v = 0.95 * v[i] + 0.05 * g * g;
    const double change = new_m * 2.0 / (std::sqrt(new_v * 3.0) + 1e-8) + 0.1 * p[i];
    expect(near(mean[i], new_m, 1.0, 1e-6) && near(square[i], new_v, 1.0, 1e-6) &&
               near(parameter[i], p[i] - 0.01 * change, std::fabs(p[i]) + std::fabs(change), 1e-6),
           "AdamW", level, 0, count);
  }
  expect(near(level_of(level).sum_of_squares(gradient.data(), count), squares, squares, 1e-6), "squares", level, 0, count);
}

// The first of equal numbers, and whether all are numbers.
void test_best_of(int64_t level, int64_t count) {
  std::vector<float> x(count);
  for (float& value : x) value = float(int(normal() * 2));
  const auto first = std::max_element(x.begin(), x.end());
  const float largest = *first;
  const Best best = level_of(level).best_of(x.data(), count);
  expect(best.value == largest && best.index == first - x.begin() && best.all_numbers, "the largest", level, 0, count);
  for (const int64_t at : {int64_t(0), count / 2, count - 1}) {
    const float before = std::exchange(x[at], -NAN);
    expect(!level_of(level).best_of(x.data(), count).all_numbers, "no number", level, 0, at);
    x[at] = before;
  }
}

// Two sequences, of which the second has something in the cache already, over blocks that are not in order.
void test_attention(int64_t level, DType dtype, int64_t H, int64_t window) {
  const int64_t R = 2, K = 2, N = 4, G = N / K, block_tokens = 64, max_blocks = 3, heads = N + 2 * K;
  const int32_t blocks[] = {4, 1, 0, 3, 5, 2}, starts[] = {0, 70, 75}, before[] = {0, 100}, added[] = {70, 5};
  const int64_t bytes = dtype == kFloat32 ? 4 : dtype == kBFloat16 ? 2 : 1, vector = H * bytes + (dtype == kInt8 ? 4 : 0);
  std::vector<uint8_t> keys(6 * K * block_tokens * vector), values(keys.size());
  std::vector<float> first(100 * heads * H), qkv(75 * heads * H), out(75 * N * H), ignored(100 * N * H);
  for (float& value : first) value = normal();
  for (float& value : qkv) value = normal();
  Attention a{};
  a.N = N, a.K = K, a.H = H, a.block_tokens = block_tokens, a.max_blocks = max_blocks;
  a.window = window, a.scale = 0.2f, a.keys = {keys.data(), dtype}, a.values = {values.data(), dtype};
  const auto run = [&](int64_t sequences, const int32_t* table, std::vector<float>& from, std::vector<float>& to,
                       const int32_t* from_starts, const int32_t* lengths, const int32_t* count) {
    a.R = sequences, a.blocks = table, a.qkv = {from.data(), false}, a.out = {to.data(), false};
    a.starts = from_starts, a.lengths = lengths, a.new_tokens = count;
    for (int64_t r = 0; r < sequences; ++r)
      for (int64_t kv = 0; kv < K; ++kv) {
        level_of(level).write(a, r, kv);
        const Queries other{sequences - 1 - r, K - 1 - kv, 0, 1};  // whose cache is prefetched
        for (int64_t i = 0; i < count[r] * G; i += kQueryRows) {
          const int64_t left = count[r] * G - i;
          level_of(level).attend(a, {r, kv, i, left < kQueryRows ? left : kQueryRows}, &other);
        }
      }
  };
  const int32_t all[] = {0, 100}, none[] = {0}, hundred[] = {100};
  run(1, blocks + 3, first, ignored, all, none, hundred);
  run(R, blocks, qkv, out, starts, before, added);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t t = 0; t < added[r]; ++t)
      for (int64_t n = 0; n < N; ++n) {
        const int64_t position = before[r] + t, kv = n / G;
        const int64_t begin = window > 0 && position >= window ? position + 1 - window : 0;
        const auto row = [&](int64_t s, int64_t head) {
          return s < before[r] ? &first[(s * heads + head) * H] : &qkv[((starts[r] + s - before[r]) * heads + head) * H];
        };
        const float* q = row(position, n);
        std::vector<double> weighted(H), score(position + 1);
        double top = -1e30, total = 0.0;
        for (int64_t s = begin; s <= position; ++s) {
          for (int64_t h = 0; h < H; ++h) score[s] += double(q[h]) * row(s, N + kv)[h] * 0.2;
          top = std::fmax(top, score[s]);
        }
        for (int64_t s = begin; s <= position; ++s) {
          const double weight = std::exp(score[s] - top);
          total += weight;
          for (int64_t h = 0; h < H; ++h) weighted[h] += weight * row(s, N + K + kv)[h];
        }
        const double tolerance = dtype == kFloat32 ? 1e-5 : dtype == kBFloat16 ? 3e-2 : 6e-2;  // of the cache's rounding
        for (int64_t h = 0; h < H; ++h)
          expect(near(out[((starts[r] + t) * N + n) * H + h], weighted[h] / total, 1.0, tolerance), "attention", level,
                 dtype, H);
      }
}

// Two sequences of tokens over each other, the second one of two segments; values and gradients.
void test_self_attention(int64_t level, int64_t T, int64_t H, int64_t window) {
  const int64_t B = 2, N = 4, K = 2, J = N + 2 * K, blocks = (T + kChunk - 1) / kChunk;
  std::vector<float> qkv(B * T * J * H), out(B * T * N * H), of_out(out.size()), of_qkv(qkv.size());
  std::vector<float> logsumexp(B * N * T), mean(B * N * T);
  std::vector<int32_t> position(B * T), segment(B * T);
  for (float& value : qkv) value = normal();
  for (float& value : of_out) value = normal();
  for (int64_t i = 0; i < B * T; ++i) {
    const bool is_second = i >= T && i - T >= T / 2;
    segment[i] = is_second, position[i] = int32_t(i % T - (is_second ? T / 2 : 0));
  }
  SelfAttention a{};
  a.B = B, a.T = T, a.N = N, a.K = K, a.H = H, a.window = window, a.scale = 0.2f, a.is_causal = true;
  a.qkv = {qkv.data(), false}, a.out = {out.data(), false}, a.position = position.data(), a.segment = segment.data();
  a.logsumexp = logsumexp.data(), a.mean = mean.data();
  a.of_out = {of_out.data(), false}, a.of_qkv = {of_qkv.data(), false};
  std::vector<float> memory(self_attention_floats(a, true));
  for (int64_t b = 0; b < B; ++b)
    for (int64_t kv = 0; kv < K; ++kv) {
      for (int64_t i = 0; i < blocks; ++i) level_of(level).self_attend(a, b, kv, i, i + 1, memory.data());
      level_of(level).self_attention_gradient(a, b, kv, memory.data());
    }
  std::vector<double> gradient(qkv.size());
  const auto row = [&](int64_t b, int64_t t, int64_t head) { return ((b * T + t) * J + head) * H; };
  for (int64_t b = 0; b < B; ++b)
    for (int64_t n = 0; n < N; ++n)
      for (int64_t t = 0; t < T; ++t) {
        const int64_t kv = n / (N / K), q = row(b, t, n), at = ((b * T + t) * N + n) * H;
        std::vector<double> weight(T), of_weight(T), value(H);
        double total = 0.0, average = 0.0;
        for (int64_t s = 0; s < T; ++s) {
          const int32_t distance = position[b * T + t] - position[b * T + s];
          if (distance < 0 || (window > 0 && distance >= window) || segment[b * T + t] != segment[b * T + s]) continue;
          double score = 0.0;
          for (int64_t h = 0; h < H; ++h) score += double(qkv[q + h]) * qkv[row(b, s, N + kv) + h] * 0.2;
          total += weight[s] = std::exp(score);
        }
        for (int64_t s = 0; s < T; ++s) {
          weight[s] /= total;
          for (int64_t h = 0; h < H; ++h) {
            value[h] += weight[s] * qkv[row(b, s, N + K + kv) + h];
            of_weight[s] += double(of_out[at + h]) * qkv[row(b, s, N + K + kv) + h];
            gradient[row(b, s, N + K + kv) + h] += weight[s] * of_out[at + h];
          }
          average += weight[s] * of_weight[s];
        }
        for (int64_t s = 0; s < T; ++s)
          for (int64_t h = 0; h < H; ++h) {
            const double of_score = weight[s] * (of_weight[s] - average) * 0.2;
            gradient[q + h] += of_score * qkv[row(b, s, N + kv) + h];
            gradient[row(b, s, N + kv) + h] += of_score * qkv[q + h];
          }
        for (int64_t h = 0; h < H; ++h) expect(near(out[at + h], value[h], 1.0, 1e-5), "attention", level, 0, H);
        const int64_t statistic = (b * N + n) * T + t;
        expect(near(logsumexp[statistic], std::log(total), 1.0, 1e-5), "logsumexp", level, 0, H);
        expect(near(mean[statistic], average, 1.0, 1e-4), "mean gradient", level, 0, H);
      }
  for (std::size_t i = 0; i < gradient.size(); ++i)
    expect(near(of_qkv[i], gradient[i], 1.0, 1e-4), "gradient of attention", level, 0, H);
}

double from_float16(const uint8_t* x) {  // of a normal number
  const int bits = x[0] | x[1] << 8;
  return (bits & 0x8000 ? -1.0 : 1.0) * std::ldexp(1024 + (bits & 0x3ff), (bits >> 10 & 31) - 25);
}

// Weight of input i for output o of a panel, as blocks.h lays it out.
double block_weight(Format f, const uint8_t* panel, int64_t groups, int64_t i, int64_t o) {
  const int64_t g = i / kGroup, record = g / kRecordGroups, in_record = g % kRecordGroups, k = i % kGroup;
  const int64_t count = std::min<int64_t>(kRecordGroups, groups - record * kRecordGroups);
  const uint8_t* start = panel + record * record_bytes(f, kRecordGroups);
  const uint8_t* values = start + in_record * value_bytes(f);
  const int64_t operand = k / 4, lane = o * 4 + k % 4;
  int value = values[(value_bits(f) == 8 ? operand : operand % 4) * 64 + lane];
  if (value_bits(f) != 8) value = operand < 4 ? value & 15 : value >> 4;
  if (value_bits(f) == 5) value |= (values[256 + lane] >> operand & 1) << 4;
  if (value_bits(f) == 6) value |= (values[256 + operand / 4 * 64 + lane] >> operand % 4 * 2 & 3) << 4;
  const uint8_t* scales = start + count * value_bytes(f);
  const int64_t kinds = has_minimum(f) ? 2 : 1;
  double scale, minimum = 0.0;
  if (has_factor(f)) {
    const uint8_t* integers = scales + kinds * kHalves + in_record * kinds * scales_of(f) * 16 + o;
    const uint8_t integer = integers[scales_of(f) == 2 ? k / 16 * 16 : 0];
    scale = from_float16(scales + o * 2) * (f == kQ6_K ? int8_t(integer) : integer);
    if (has_minimum(f)) minimum = from_float16(scales + kHalves + o * 2) * integers[16];
  } else {
    scale = from_float16(scales + in_record * kinds * kHalves + o * 2);
    if (has_minimum(f)) minimum = from_float16(scales + (in_record * kinds + 1) * kHalves + o * 2);
  }
  return scale * (value - offset_of(f)) + minimum;
}

// A product with a matrix whose bytes are random, but for its float16: those are of magnitude 0.5 to 1.
void test_blocks(int64_t level, Format f, int64_t M, int64_t O, int64_t groups) {
  const int64_t I = groups * kGroup, panels = (O + kTile - 1) / kTile, bytes = panel_bytes(f, groups);
  std::vector<uint8_t> tiles(panels * bytes);
  for (uint8_t& byte : tiles) byte = uint8_t(random_bits());
  const auto set_float16 = [&](uint8_t* first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) first[2 * i + 1] = (first[2 * i + 1] & 0x83) | 14 << 2;
  };
  for (int64_t panel = 0; panel < panels; ++panel)
    for (int64_t g = 0; g < groups; g += kRecordGroups) {
      const int64_t count = std::min<int64_t>(kRecordGroups, groups - g), kinds = has_minimum(f) ? 2 : 1;
      uint8_t* record = tiles.data() + panel * bytes + g / kRecordGroups * record_bytes(f, kRecordGroups);
      set_float16(record + count * value_bytes(f), kTile * kinds * (has_factor(f) ? 1 : count));
    }
  std::vector<float> x(M * I), y(M * O);
  for (float& value : x) value = normal();
  const int64_t row_tiles = (M + kTile - 1) / kTile;
  std::vector<uint8_t> memory(row_tiles * groups * kRowGroupBytes + 64);
  BlockProduct p{};
  p.base.M = M, p.base.I = I, p.base.O = O, p.base.panels = panels;
  p.base.x = {x.data(), false}, p.base.y = {y.data(), false};
  p.base.rows = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
  p.groups = groups, p.segments = 1, p.segment[0] = {f, panels, tiles.data()};
  for (int64_t tile = 0; tile < row_tiles; ++tile) level_of(level).prepare_blocks(p, tile);
  level_of(level).multiply_blocks(p, 0, panels);
  for (int64_t m = 0; m < M; ++m)
    for (int64_t o = 0; o < O; ++o) {
      double sum = 0.0, largest = 0.0;
      for (int64_t i = 0; i < I; ++i) {
        const uint8_t* group = p.base.rows + (m / kTile * groups + i / kGroup) * kRowGroupBytes;
        const int8_t integer = reinterpret_cast<const int8_t*>(group)[m % kTile * kGroup + i % kGroup];
        const double value = reinterpret_cast<const RowGroup*>(group + kTile * kGroup)[m % kTile].scale * integer;
        expect(near(value, x[m * I + i], 1.0, 0.02), "a rounded row", level, int(f), I);
        const double term = value * block_weight(f, tiles.data() + o / kTile * bytes, groups, i, o % kTile);
        sum += term, largest += std::fabs(term);
      }
      expect(near(y[m * O + o], sum, largest, 1e-6), "a product with blocks", level, int(f), I);
    }
}

// Threads that run loops at the same time, on the library's threads or on those of a pool that come late: each task of
// each loop is run once.
void test_loops(int callers, int loops) {
  struct Pool {
    std::vector<std::thread> late;
    int64_t num_threads() const { return 4; }
    void Schedule(std::function<void()> help) { late.emplace_back(help); }
  };
  const auto run = [loops](int caller) {
    std::mt19937 random(caller);
    for (int n = 0; n < loops; ++n) {
      Pool pool;
      std::vector<int> times(random() % 40 + 1);
      parallel(pool, int64_t(times.size()), [&](int64_t task) { ++times[task]; }, n % 8 == 0 ? kFewRows + 1 : 1);
      for (int count : times)
        if (count != 1) std::printf("a task ran %d times\n", count), std::exit(1);
      for (std::thread& thread : pool.late) thread.join();
    }
  };
  std::vector<std::thread> threads;
  for (int caller = 1; caller < callers; ++caller) threads.emplace_back(run, caller);
  run(0);
  for (std::thread& thread : threads) thread.join();
  ++checks;
}

}  // namespace
}  // namespace llm

int main() {
  using namespace llm;
  const int64_t best = llm_level();
  for (int callers : {1, 3, 20}) test_loops(callers, 500);
  for (int64_t level = kLevelNeon; level <= best; ++level) {
    for (int64_t count : {1, 17, 5000}) test_update(level, count), test_best_of(level, count);
    for (int64_t T : {1, 70, 130})
      for (int64_t H : {16, 80}) test_self_attention(level, T, H, T == 130 ? 50 : 0);
    for (bool is_bfloat16 : {false, true})
      for (int64_t I : {3, 64, 70})
        for (int64_t O : {5, 32, 100}) test_low_rank(level, is_bfloat16, I, O);
    for (Format f : {kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ4_K, kQ5_K, kQ6_K})
      for (int64_t M : {1, 3, 18})
        for (int64_t O : {5, 48})
          for (int64_t groups : {1, 8, 10}) test_blocks(level, f, M, O, groups);
    for (DType dtype : {kFloat32, kBFloat16, kInt8}) {
      for (int64_t M : {1, 2, 5, 16, 17, 70})
        for (int64_t O : {5, 32, 100})
          for (int64_t I : {3, 64, 600}) test_product(level, dtype, M, O, I);
      for (int64_t H : {16, 64, 80})
        for (int64_t window : {0, 30}) test_attention(level, dtype, H, window);
    }
  }
  std::printf("levels up to %s: %d checks passed\n", best == kLevelDotprod ? "dotprod" : "neon", checks);
  return 0;
}
