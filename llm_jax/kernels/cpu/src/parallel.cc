// Parallel loops, and the threads of short ones.
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

// A loop that other threads join. It is its caller's from `taken` on, until all tasks are done; the next caller takes it
// when nobody else is `inside` any more.
struct alignas(64) Loop {
  std::atomic<bool> open{false};  // whether tasks may be left
  std::atomic<bool> taken{false};
  alignas(64) std::atomic<int64_t> inside{0};
  alignas(64) std::atomic<int64_t> done{0};
  LoopTask task = nullptr;
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

  // Works beside the caller, if tasks are left; says whether there were.
  bool join(int64_t t) {
    inside.fetch_add(1);
    const bool was_open = open.load();
    if (was_open) work(t);
    inside.fetch_sub(1);
    return was_open;
  }

  // Works as the caller, until all tasks are done.
  void finish(int64_t count) {
    work(0);
    for (int64_t spins = 0; done.load(std::memory_order_acquire) < count; ++spins)
      spins < kSpins ? pause() : std::this_thread::yield();
    taken.store(false, std::memory_order_release);
  }
};

class Loops {
 public:
  explicit Loops(int64_t most) : most_(most) {
    for (Loop& loop : loops_) loop.range = std::make_unique<Range[]>(most);
  }

  // A loop with these tasks, open for so many threads; null while all are taken.
  Loop* begin(int64_t wanted, int64_t count, LoopTask task, const void* context) {
    const int64_t threads = wanted < most_ ? wanted : most_;
    Loop* loop = take();
    if (loop == nullptr) return nullptr;
    loop->task = task, loop->context = context;
    loop->ranges.store(threads, std::memory_order_relaxed);
    loop->done.store(0, std::memory_order_relaxed);
    for (int64_t t = 0; t < threads; ++t) {
      loop->range[t].next.store(count * t / threads, std::memory_order_relaxed);
      loop->range[t].end = count * (t + 1) / threads;
    }
    loop->open.store(true);
    return loop;
  }

  // Joins every loop that has a range for this thread, and tasks left; says whether there was one.
  bool join(int64_t t) {
    bool found = false;
    for (Loop& loop : loops_)
      if (loop.open.load(std::memory_order_relaxed) && t < loop.ranges.load(std::memory_order_relaxed))
        found |= loop.join(t);
    return found;
  }

  bool any_open() const {
    for (const Loop& loop : loops_)
      if (loop.open.load()) return true;
    return false;
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

  const int64_t most_;
  Loop loops_[kLoops];
};

// The library's own threads.
class Workers {
 public:
  explicit Workers(int64_t count) : loops_(count + 1) {  // and the caller
    sigset_t all, before;  // a signal is for the threads that know of it
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      for (int64_t t = 1; t <= count; ++t) std::thread([this, t] { run(t); }).detach();
    } catch (const std::system_error&) {  // a limit of the system: what no worker takes, the callers do
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  Loop* begin(int64_t threads, int64_t count, LoopTask task, const void* context) {
    Loop* loop = loops_.begin(threads, count, task, context);
    if (loop != nullptr && sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(mutex_);
      wake_.notify_all();
    }
    return loop;
  }

 private:
  void run(int64_t t) {
    for (;;) {
      for (int64_t spins = 0; spins < kSpins; ++spins) {
        if (loops_.join(t)) spins = 0;
        pause();
      }
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      wake_.wait(lock, [this] { return loops_.any_open(); });
      sleeping_.fetch_sub(1);
    }
  }

  Loops loops_;
  std::atomic<int64_t> sleeping_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// Begins a loop, for at most so many threads; null where it is left to its caller.
Loop* begin(int64_t most, int64_t count, LoopTask task, const void* context, Schedule schedule, void* pool) {
  const int64_t threads = count < most ? count : most;
  if (threads <= 1) return nullptr;
  if (schedule == nullptr) {
    static Workers* const workers = new Workers(most - 1);  // never deleted: its threads end with the process
    return workers->begin(threads, count, task, context);
  }
  static Loops* const loops = new Loops(most);
  Loop* const loop = loops->begin(threads, count, task, context);
  // XLA's thread may come when another loop is there instead: it helps with that one.
  const auto help = [](void* at, int64_t t) { static_cast<Loop*>(at)->join(t); };
  for (int64_t t = 1; loop != nullptr && t < threads; ++t) schedule(pool, help, loop, t);
  return loop;
}

}  // namespace

void run_loop(int64_t threads, int64_t count, LoopTask task, const void* context, Schedule schedule, void* pool) {
  if (Loop* const loop = begin(threads, count, task, context, schedule, pool)) return loop->finish(count);
  for (int64_t i = 0; i < count; ++i) task(context, i);
}

}  // namespace llm
