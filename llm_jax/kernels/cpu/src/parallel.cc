// The threads of parallel loops.
//
// A decode step makes some hundred calls of 10 to 100 µs, a few µs apart. To wake a sleeping thread takes about as long
// as such a call, so a worker that has nothing to do watches for the next loop for a while before it sleeps. XLA's own
// threads cannot do that: they would be missed by what XLA runs between the calls.
#include "parallel.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace llm {
namespace {

constexpr int64_t kSpins = 2048;  // waits of some 50 to 150 cycles before a thread sleeps or yields its core
constexpr int kLoops = 16;        // that run at once; further callers run theirs alone

// Tells the processor that this thread waits.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  asm volatile("yield");
#endif
}

// The tasks that one thread begins with: contiguous ones, for sequential reads.
struct alignas(64) Range {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

// A loop that workers join. It is its caller's from `taken` on, until all tasks are done; the next caller takes it when
// no worker is `inside` any more.
struct alignas(64) Loop {
  std::atomic<bool> open{false};  // whether tasks may be left
  std::atomic<bool> taken{false};
  alignas(64) std::atomic<int64_t> inside{0};
  alignas(64) std::atomic<int64_t> done{0};
  void (*task)(const void*, int64_t) = nullptr;
  const void* context = nullptr;
  std::atomic<int64_t> ranges{0};
  std::unique_ptr<Range[]> range;

  // Runs the tasks of a range, and then those that are left of the others.
  void work(int64_t first) {
    const int64_t count = ranges.load(std::memory_order_relaxed);
    for (int64_t r = 0; r < count; ++r) {
      Range& own = range[(first + r) % count];
      for (int64_t i; (i = own.next.fetch_add(1, std::memory_order_relaxed)) < own.end;) {
        task(context, i);
        done.fetch_add(1, std::memory_order_release);
      }
    }
    open.store(false);  // before anybody looks who is inside
  }
};

class Workers {
 public:
  explicit Workers(int64_t count) : most_(count + 1) {  // and the caller
    for (Loop& loop : loops_) loop.range = std::make_unique<Range[]>(most_);
    sigset_t all, before;  // a signal is for the threads that know of it
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (int64_t t = 1; t <= count; ++t) std::thread([this, t] { run(t); }).detach();
    } catch (const std::system_error&) {  // a limit of the system: what no worker takes, the callers do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void run_loop(int64_t count, void (*task)(const void*, int64_t), const void* context) {
    const int64_t threads = count < most_ ? count : most_;
    Loop* loop = take();
    if (loop == nullptr) {
      for (int64_t i = 0; i < count; ++i) task(context, i);
      return;
    }
    loop->task = task, loop->context = context;
    loop->ranges.store(threads, std::memory_order_relaxed);
    loop->done.store(0, std::memory_order_relaxed);
    for (int64_t t = 0; t < threads; ++t) {
      loop->range[t].next.store(count * t / threads, std::memory_order_relaxed);
      loop->range[t].end = count * (t + 1) / threads;
    }
    loop->open.store(true);
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    loop->work(0);
    for (int64_t spins = 0; loop->done.load(std::memory_order_acquire) < count; ++spins)
      spins < kSpins ? pause() : std::this_thread::yield();
    loop->taken.store(false, std::memory_order_release);
  }

 private:
  Loop* take() {
    for (Loop& loop : loops_) {
      if (loop.taken.load(std::memory_order_relaxed) || loop.taken.exchange(true, std::memory_order_acquire)) continue;
      if (loop.inside.load() == 0) return &loop;
      loop.taken.store(false, std::memory_order_release);
    }
    return nullptr;
  }

  // Joins every loop that has a range for this worker, and tasks left; says whether there was one.
  bool join(int64_t t) {
    bool found = false;
    for (Loop& loop : loops_) {
      if (!loop.open.load(std::memory_order_relaxed) || t >= loop.ranges.load(std::memory_order_relaxed)) continue;
      loop.inside.fetch_add(1);
      if (loop.open.load()) loop.work(t), found = true;
      loop.inside.fetch_sub(1);
    }
    return found;
  }

  bool any_open() const {
    for (const Loop& loop : loops_)
      if (loop.open.load()) return true;
    return false;
  }

  void run(int64_t t) {
    for (;;) {
      for (int64_t spins = 0; spins < kSpins; ++spins) {
        if (join(t)) spins = 0;
        pause();
      }
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [this] { return any_open(); });
      sleeping_.fetch_sub(1);
    }
  }

  const int64_t most_;
  Loop loops_[kLoops];
  std::atomic<int64_t> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace

void run_loop(int64_t threads, int64_t count, void (*task)(const void*, int64_t), const void* context) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
  static Workers* const workers = new Workers(threads - 1);  // never deleted: its threads end with the process
  workers->run_loop(count, task, context);
}

}  // namespace llm
