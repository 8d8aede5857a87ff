// A parallel loop on the library's own threads, and memory of a thread.
#pragma once

#include <cstdint>
#include <vector>

namespace llm {

// Runs task(context, 0) … task(context, count - 1), each once, on the caller and on up to threads - 1 workers; `threads`
// is the same in each call.
void run_loop(int64_t threads, int64_t count, void (*task)(const void* context, int64_t i), const void* context);

// Runs task(0) … task(count - 1), each once, on as many threads as XLA's pool has, and returns when all have run.
template <typename Pool, typename Task>
void parallel(Pool& pool, int64_t count, const Task& task) {
  const auto run = [](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); };
  run_loop(pool.num_threads(), count, run, &task);
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
