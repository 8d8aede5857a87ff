// A parallel loop, and memory of a thread.
#pragma once

#include <cstdint>
#include <vector>

namespace llm {

constexpr int64_t kFewRows = 64;  // a loop over the rows of a decode step is short, one over more takes long

// The task of a loop, i of 0 … count - 1.
using LoopTask = void (*)(const void* context, int64_t i);
// Has a thread of `pool` call help(loop, t), now or later.
using Schedule = void (*)(void* pool, void (*help)(void* loop, int64_t t), void* loop, int64_t t);

// Runs task(context, 0) … task(context, count - 1), each once, on the caller and up to threads - 1 others, and returns
// when all have run. The others are XLA's by `schedule`, or the library's own without it; there are never more of them
// than the first call asks for.
void run_loop(int64_t threads, int64_t count, LoopTask task, const void* context, Schedule schedule, void* pool);

template <typename Task>
void run_task(const void* task, int64_t i) {
  (*static_cast<const Task*>(task))(i);
}

// Runs task(0) … task(count - 1) on the library's own threads.
template <typename Task>
void parallel_on_workers(int64_t threads, int64_t count, const Task& task) {
  run_loop(threads, count, run_task<Task>, &task, nullptr, nullptr);
}

// Runs task(0) … task(count - 1) on as many threads as XLA's pool has: for a step of few rows on the library's own, which
// begin sooner; else on XLA's, since a training step runs other operations there at the same time, and one thread more
// than there are cores costs it 15 %. A loop for which no number of rows is given is a long one.
template <typename Pool, typename Task>
void parallel(Pool& pool, int64_t count, const Task& task, int64_t rows = kFewRows + 1) {
  if (rows <= kFewRows) return parallel_on_workers(pool.num_threads(), count, task);
  const auto schedule = [](void* threads, void (*help)(void*, int64_t), void* loop, int64_t t) {
    static_cast<Pool*>(threads)->Schedule([help, loop, t] { help(loop, t); });
  };
  run_loop(pool.num_threads(), count, run_task<Task>, &task, schedule, &pool);
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

}  // namespace llm
