#include "phases.hpp"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace care {
namespace {

// Spins take a few tens of microseconds, as long as going to sleep and waking up.
constexpr int kSpins = 2000;

void pause() {
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void wait_for_change(const std::atomic<int>& value, int old) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    value.wait(old, std::memory_order_acquire);
}

void Phases::restart(std::size_t phases, std::size_t counters) {
    phases_ = phases;
    if (claims_.size() < phases + counters) claims_ = std::vector<std::atomic<std::uint32_t>>(phases + counters);
    for (std::atomic<std::uint32_t>& claimed : claims_) claimed.store(0, std::memory_order_relaxed);
    over_.store(0, std::memory_order_relaxed);
}

// Reports all that this thread has done in the current phase, and waits until it is over.
void Phases::finish(int phase, std::size_t done, std::size_t units) {
    const std::uint32_t mine = static_cast<std::uint32_t>(done);
    // Without units of its own a thread may be late, and what is counted may be of a later phase.
    if (mine > 0 && done_.fetch_add(mine, std::memory_order_acq_rel) + mine == units) {
        // Nobody has anything to count before the next phase begins.
        done_.store(0, std::memory_order_relaxed);
        over_.store(phase + 1, std::memory_order_release);
        over_.notify_all();
        return;
    }
    while (!is_over(phase)) wait_for_change(over_, phase);
}

}  // namespace care
