// A parallel loop on XLA's intra-op threads, and memory of a thread.
#pragma once

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace llm {

// Tells the processor that this thread waits.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

constexpr int64_t kSpins = 4096;  // waits of a few cycles before the caller yields its core

// Runs task(0) … task(count - 1), each once, and returns when all have run. Each thread runs a contiguous range of
// tasks, for sequential reads, and then steals from the ranges of others. The caller runs tasks too, so that it never
// waits for a busy pool; a worker that starts after the last task was taken only releases its reference to the job.
template <typename Task>
void parallel(xla::ffi::ThreadPool& pool, int64_t count, const Task& task) {
  const int64_t threads = count < pool.num_threads() ? count : pool.num_threads();
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  struct alignas(64) Range {
    std::atomic<int64_t> next;
    int64_t end;
  };
  struct Job {
    std::vector<Range> ranges;
    alignas(64) std::atomic<int64_t> done{0};
    explicit Job(int64_t threads) : ranges(threads) {}
  };
  auto job = std::make_shared<Job>(threads);
  for (int64_t t = 0; t < threads; ++t) {
    job->ranges[t].next = count * t / threads;
    job->ranges[t].end = count * (t + 1) / threads;
  }
  auto work = [job, threads, &task](int64_t first) {
    for (int64_t t = 0; t < threads; ++t) {
      Range& range = job->ranges[(first + t) % threads];
      for (int64_t i; (i = range.next.fetch_add(1)) < range.end;) {
        task(i);
        job->done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  for (int64_t t = 1; t < threads; ++t) pool.Schedule([work, t] { work(t); });
  work(0);
  for (int64_t spins = 0; job->done.load(std::memory_order_acquire) < count; ++spins)
    spins < kSpins ? pause() : std::this_thread::yield();
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
