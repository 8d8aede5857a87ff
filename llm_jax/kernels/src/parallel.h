// Pieces of work on XLA's own intra-op threads.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>

#include "xla/ffi/api/ffi.h"

namespace llm {

// Runs piece(0) … piece(count - 1), each once, and returns when all have run. The caller takes pieces too, so that
// nothing waits for a pool that is busy; a task that starts after the last piece is taken only lets go of the job.
template <typename Piece>
void parallel(xla::ffi::ThreadPool& pool, int64_t count, const Piece& piece) {
  struct Job {
    std::atomic<int64_t> next{0}, done{0};
  };
  const int64_t threads = count < pool.num_threads() ? count : pool.num_threads();
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) piece(i);
    return;
  }
  auto job = std::make_shared<Job>();
  auto work = [job, count, &piece] {
    for (int64_t i; (i = job->next.fetch_add(1)) < count;) {
      piece(i);
      job->done.fetch_add(1, std::memory_order_release);
    }
  };
  for (int64_t t = 1; t < threads; ++t) {
    auto task = work;
    pool.Schedule(std::move(task));
  }
  work();
  for (int64_t spins = 0; job->done.load(std::memory_order_acquire) < count; ++spins)
    spins < 4096 ? _mm_pause() : std::this_thread::yield();
}

}  // namespace llm
