// The scan against brute force, under sanitizers. Built and run by tests/test_native.py.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "../../csrc/threads/workers.hpp"
#include "check.hpp"

int main() {
    constexpr check::Case kCases[] = {
        {0, 5, 5, 2, 3, 2, 0, false},        {1, 1, 1, 1, 1, 1, 0, false},       {17, 3, 3, 7, 20, 2, 0, false},
        {163, 65, 65, 13, 5, 2, 2, false},   {999, 130, 70, 5, 10, 2, 0, true},  {999, 600, 513, 1, 10, 3, 1, false},
        {6000, 40, 40, 9, 10, 4, 0, true},   {20000, 96, 96, 3, 50, 4, 0, false}, {20000, 96, 96, 40, 10, 4, 0, false},
        {20000, 96, 96, 1, 10, 4, 0, false}, {20003, 70, 70, 1, 30, 2, 1, true},
        {9000, 40, 40, 9, 5, 4, 0, false, 1e7f}, {9000, 40, 40, 1, 5, 2, 3e5f, false},
    };
    std::size_t failures = 0, checks = 0;
    for (const check::Case& c : kCases) {
        const check::Expected expected(c);
        for (const std::string_view instruction_set : care::instruction_sets()) {
            ++checks;
            failures += !expected.holds(instruction_set, [&](const auto& vectors, const auto& codes, const auto& queries,
                                                             const auto* allowed, auto... found) {
                care::search(vectors, codes, queries, {c.k, c.threads, allowed ? allowed->data() : nullptr,
                                                       instruction_set}, found...);
            });
            // All allowed vectors, one by one; for whole queries also in another order, one query at a time.
            for (const bool together : {true, false}) {
                if (!together && c.query_width != c.width) continue;
                ++checks;
                failures += !expected.holds(instruction_set, [&](const auto& vectors, const auto&, const auto& queries,
                                                                 const auto* allowed, double* scores, std::int64_t* ids,
                                                                 std::int64_t*) {
                    std::vector<std::int64_t> rows;
                    for (std::size_t r = 0; r < vectors.rows; ++r) {
                        const bool found = !allowed || ((*allowed)[r / care::kBlock] >> (r % care::kBlock) & 1);
                        if (found) rows.push_back(static_cast<std::int64_t>(r));
                    }
                    const care::SearchOptions options{c.k, c.threads, nullptr, instruction_set};
                    if (together) {
                        care::search_rows(vectors, rows.data(), rows.size(), queries, options, scores, ids);
                        return;
                    }
                    std::reverse(rows.begin(), rows.end());
                    for (std::size_t q = 0; q < queries.rows; ++q) {
                        care::search_candidates(vectors, rows.data(), rows.size(), queries.data + q * queries.width,
                                                options, scores + q * c.k, ids + q * c.k);
                    }
                });
            }
        }
    }
    care::end_waiting_workers();
    std::printf("%zu checks, %zu failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
