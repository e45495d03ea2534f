// The encoder's pool of threads and its phases, under sanitizers. Built and run by tests/test_native.py.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "phases.hpp"
#include "thread_pool.hpp"

namespace {

std::size_t checks = 0, failures = 0;

void check(bool holds, const char* what, std::size_t threads) {
    ++checks;
    if (holds) return;
    ++failures;
    std::printf("%s, %zu threads\n", what, threads);
}

// Every phase computes each of its values from all values of the phase before: one that began too early, was left out
// or done twice changes the last. Values are no atomics, so that a thread sanitizer sees what is not ordered.
class Sums {
public:
    static constexpr std::size_t kPhases = 12;

    Sums() {
        for (std::size_t p = 0; p < kPhases; ++p) values_[p].resize(1 + p * 7 % 11);
    }

    void begin(care::Phases& phases) {
        for (std::vector<std::uint64_t>& one : values_) std::fill(one.begin(), one.end(), 0);
        // Odd phases are claimed with counters of their own.
        phases.restart(kPhases, kPhases);
    }

    // `entered` is called in every unit, with the number of its phase.
    template <typename Entered>
    void work(care::Phases& phases, const Entered& entered) {
        int next = 0;
        for (std::size_t p = 0; p < kPhases; ++p) {
            const std::size_t units = values_[p].size();
            const auto one = [&](std::size_t i) {
                entered(p);
                compute(p, i);
            };
            if (p % 2 == 0) {
                phases.for_each(next, units, 1 + p % 3, one);
            } else {
                phases.run(next, units, [&] {
                    std::size_t done = 0;
                    for (std::size_t i = phases.claim(p); i < units; i = phases.claim(p)) {
                        one(i);
                        ++done;
                    }
                    return done;
                });
            }
        }
    }

    std::uint64_t result() const {
        std::uint64_t sum = 0;
        for (const std::uint64_t value : values_[kPhases - 1]) sum = sum * 31 + value;
        return sum;
    }

private:
    void compute(std::size_t p, std::size_t i) {
        std::uint64_t sum = i + 1;
        if (p > 0) {
            for (std::size_t round = 0; round < 20; ++round) {
                for (const std::uint64_t value : values_[p - 1]) sum = sum * 6364136223846793005u + value;
            }
        }
        values_[p][i] += sum;
    }

    std::vector<std::uint64_t> values_[kPhases];
};

std::uint64_t expected() {
    care::Phases phases;
    Sums sums;
    sums.begin(phases);
    sums.work(phases, [](std::size_t) {});
    return sums.result();
}

// Calls in a row, some so short that others wake up after their end.
void check_many_calls(std::uint64_t right) {
    for (std::size_t threads = 1; threads <= 4; ++threads) {
        care::ThreadPool pool(threads);
        care::Phases phases;
        Sums sums;
        std::vector<int> taken(threads);
        bool good = true, once = true;
        for (std::size_t call = 0; call < 1500; ++call) {
            const std::size_t count = 1 + call % threads;
            std::fill(taken.begin(), taken.end(), 0);
            sums.begin(phases);
            pool.run(count, [&](std::size_t worker) {
                if (worker < count) ++taken[worker];
                sums.work(phases, [](std::size_t) {});
            });
            good = good && sums.result() == right;
            once = once && taken[0] == 1 && std::all_of(taken.begin(), taken.end(), [](int n) { return n <= 1; });
            // A call without work: nobody may be in it after its end.
            int open = 1;
            pool.run(count, [&](std::size_t worker) { taken[worker] = open; });
            open = 0;
            good = good && taken[0] == 1 && std::all_of(taken.begin(), taken.end(), [](int n) { return n <= 1; });
        }
        check(good, "a call went wrong", threads);
        check(once, "two threads had the same number", threads);
    }
}

// A thread that begins while the caller is in a phase takes part from there on, and one that is held up does not hold
// up a phase of which it has claimed nothing.
void check_late_threads(std::uint64_t right) {
    for (std::size_t from = 0; from < Sums::kPhases; ++from) {
        care::ThreadPool pool(3);
        if (pool.size() < 3) return;
        care::Phases phases;
        Sums sums;
        sums.begin(phases);
        std::atomic<std::size_t> reached{0}, late{0}, early{0};
        constexpr auto kUnordered = std::memory_order_relaxed;  // the phases alone are to put anything in order
        pool.run(3, [&](std::size_t worker) {
            if (worker == 0) {
                while (late.load(kUnordered) < 2) std::this_thread::yield();
                sums.work(phases, [&](std::size_t phase) { reached.store(phase, kUnordered); });
            } else {
                late.fetch_add(1, kUnordered);
                while (reached.load(kUnordered) < from) std::this_thread::yield();
                sums.work(phases, [&](std::size_t phase) {
                    if (phase < from) early.fetch_add(1, kUnordered);
                });
            }
        });
        check(sums.result() == right, "late threads spoiled the result", 3);
        check(early.load() == 0, "a late thread worked in a phase that was over", 3);
    }
}

}  // namespace

int main() {
    const std::uint64_t right = expected();
    check_many_calls(right);
    check_late_threads(right);
    std::printf("%zu checks, %zu failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
