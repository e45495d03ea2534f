// Work in phases for threads that come and go.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace care {

// Returns once the value is another than `old`: spins for some tens of microseconds before it sleeps.
void wait_for_change(const std::atomic<int>& value, int old);

// Phases follow each other, and each has units that threads claim. A phase is over when all of its units are done: a
// thread is waited for only while it has claimed what is not done. So nobody waits for a thread that sleeps longer than
// the work takes, and one that wakes up in between takes part from the phase on that it finds.
//
// Every thread calls run() or for_each() for all phases in order, with a number that starts at zero and counts them.
class Phases {
public:
    // Starts again, with at most so many phases, and counters besides. Nothing may be running.
    void restart(std::size_t phases, std::size_t counters);

    // The next value of a counter: 0, 1, 2 ...
    std::size_t claim(std::size_t counter) { return next_of(phases_ + counter); }

    // A phase of so many units. work() does those that are left, and returns how many that were. Returns when the phase
    // is over: at once for a thread that comes later.
    template <typename Work>
    void run(int& next, std::size_t units, const Work& work) {
        const int phase = next++;
        if (!is_over(phase)) finish(phase, work(), units);
    }

    // A phase that calls work(0), ..., work(units - 1), `together` of them for each claim.
    template <typename Work>
    void for_each(int& next, std::size_t units, std::size_t together, const Work& work) {
        const std::size_t counter = static_cast<std::size_t>(next);
        run(next, units, [&] {
            std::size_t done = 0;
            for (std::size_t i = together * next_of(counter); i < units; i = together * next_of(counter)) {
                const std::size_t end = std::min(i + together, units);
                done += end - i;
                for (; i < end; ++i) work(i);
            }
            return done;
        });
    }

private:
    std::size_t next_of(std::size_t counter) { return claims_[counter].fetch_add(1, std::memory_order_relaxed); }
    bool is_over(int phase) const { return over_.load(std::memory_order_acquire) > phase; }
    void finish(int phase, std::size_t done, std::size_t units);

    std::vector<std::atomic<std::uint32_t>> claims_;  // of phases, and the others
    std::size_t phases_ = 0;
    alignas(64) std::atomic<std::uint32_t> done_{0};  // of the current phase
    alignas(64) std::atomic<int> over_{0};            // the number of phases that are over
};

}  // namespace care
