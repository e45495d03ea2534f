// The kernels of csrc/cuda, on an emulated GPU, against brute force. Built and run by tests/test_native.py.
#include <cstdio>
#include <cstdlib>

#include "care/cuda.hpp"
#include "check.hpp"
#include "plan.hpp"

namespace {

std::size_t bits(const std::vector<std::uint16_t>& masks) {
    std::size_t count = 0;
    for (const std::uint16_t mask : masks) count += static_cast<std::size_t>(__builtin_popcount(mask));
    return count;
}

// Every plan has columns for all queries, capacity for the sample, and no more shared memory than a block has.
bool plans_hold() {
    bool hold = true;
    for (const std::size_t rows : {1, 31, 33, 8192, 100'000, 100'000'000}) {
        for (const std::size_t width : {1, 33, 768, 8192}) {
            for (const std::size_t queries : {1, 16, 17, 256}) {
                for (const std::size_t k : {1, 10, 1024}) {
                    for (const std::size_t shared : {99 * 1024, 227 * 1024}) {
                        const care::cuda::Plan plan = care::cuda::make_plan(rows, width, rows, k, queries, shared);
                        const bool good = plan.column_groups * plan.queries_of_group() >= queries &&
                                          plan.capacity >= plan.sample_pairs * care::cuda::kPair &&
                                          (plan.sample_pairs - 1) * plan.stride < plan.pairs &&
                                          plan.steps * 32 >= width && plan.group_bytes() + 4096 <= shared;
                        if (!good) std::printf("plan of %zu x %zu, %zu queries, k %zu\n", rows, width, queries, k);
                        hold &= good;
                    }
                }
            }
        }
    }
    return hold;
}

}  // namespace

int main() {
    // Few vectors; both terms and one; a prefix, a subset; pruning that fails; more queries than one pass has; so many
    // hits that their candidates are scored in several rounds.
    constexpr check::Case kCases[] = {
        {1, 1, 1, 1, 1, 1, 0, false},         {163, 65, 65, 13, 5, 1, 2, false},    {999, 130, 70, 5, 20, 1, 0, true},
        {8192, 9, 9, 1, 10, 1, 0, false},     {8300, 100, 100, 3, 10, 1, 1, false}, {8211, 80, 70, 9, 100, 1, 0, false},
        {33000, 33, 33, 2, 10, 1, 0, true},   {9001, 40, 40, 17, 7, 1, 0, false},   {8192, 24, 24, 33, 5, 1, 1, false},
        {8200, 8, 8, 3, 5, 1, 0, false, 1e7f}, {8300, 8, 8, 1, 5, 1, 3e5f, false}, {40, 6, 6, 300, 3, 1, 0, false},
        {33000, 16, 16, 1, 1000, 1, 0, false},
    };
    std::size_t failures = !plans_hold(), checks = 1;
    // Where pruning works, few vectors are rescored: the hits and close competitors.
    for (const check::Case& c : {check::Case{20000, 32, 32, 3, 10, 1, 0, false}, {20000, 32, 32, 2, 300, 1, 0, false}}) {
        std::int64_t max_rescored = 0;
        checks += 2;
        failures += !check::Expected(c).holds("selection", [&](const auto& vectors, const auto& codes, const auto& queries,
                                                      const auto*, double* scores, std::int64_t* ids,
                                                      std::int64_t* rescored) {
            const care::cuda::DeviceIndex index(vectors, codes, 0);
            index.search_from_host(
                {queries.data, queries.rows, queries.width, c.k, nullptr, vectors.rows, scores, nullptr, ids, rescored});
            max_rescored = *std::max_element(rescored, rescored + queries.rows);
        });
        const bool few = max_rescored < static_cast<std::int64_t>(2 * c.k);
        if (!few) std::printf("%lld rescored for %zu hits\n", static_cast<long long>(max_rescored), c.k);
        failures += !few;
    }
    for (const check::Case& c : kCases) {
        ++checks;
        failures += !check::Expected(c).holds("CUDA", [&](const auto& vectors, const auto& codes, const auto& queries,
                                                 const auto* allowed, double* scores, std::int64_t* ids,
                                                 std::int64_t* rescored) {
            const care::cuda::DeviceIndex index(vectors, codes, 0);
            index.search_from_host({queries.data, queries.rows, queries.width, c.k, allowed ? allowed->data() : nullptr,
                          allowed ? bits(*allowed) : vectors.rows, scores, nullptr, ids, rescored});
        });
    }
    std::printf("%zu checks, %zu failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
