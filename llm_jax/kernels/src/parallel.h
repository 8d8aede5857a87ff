// Pieces of work on XLA's own intra-op threads.
#pragma once

#include <immintrin.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace llm {

// Runs piece(0) … piece(count - 1), each once, and returns when all have run. Each thread goes through a range of its
// own, so that what it reads follows on what it has read, and then helps with the others'. The caller takes pieces
// too, so that nothing waits for a pool that is busy; a task that starts after the last piece is taken only lets go of
// the job.
template <typename Piece>
void parallel(xla::ffi::ThreadPool& pool, int64_t count, const Piece& piece) {
  const int64_t threads = count < pool.num_threads() ? count : pool.num_threads();
  if (threads <= 1) {
    for (int64_t i = 0; i < count; ++i) piece(i);
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
  auto work = [job, threads, &piece](int64_t first) {
    for (int64_t t = 0; t < threads; ++t) {
      Range& range = job->ranges[(first + t) % threads];
      for (int64_t i; (i = range.next.fetch_add(1)) < range.end;) {
        piece(i);
        job->done.fetch_add(1, std::memory_order_release);
      }
    }
  };
  for (int64_t t = 1; t < threads; ++t) pool.Schedule([work, t] { work(t); });
  work(0);
  for (int64_t spins = 0; job->done.load(std::memory_order_acquire) < count; ++spins)
    spins < 4096 ? _mm_pause() : std::this_thread::yield();
}

}  // namespace llm
