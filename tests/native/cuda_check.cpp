// The kernels of csrc/cuda, on an emulated GPU, against brute force. Built and run by tests/test_native.py.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <utility>

#include "care/cuda.hpp"
#include "check.hpp"
#include "plan.hpp"
#ifdef CARE_EMULATED
#include "emulated_gpu.hpp"
#endif

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
            for (const std::size_t queries : {1, 16, 17, 64, 65, 128, 129, 256}) {
                for (const std::size_t k : {1, 10, 1024}) {
                    for (const std::size_t shared : {99 * 1024, 163 * 1024, 227 * 1024}) {
                        const care::cuda::Plan plan = care::cuda::make_plan(rows, width, rows, k, queries, shared);
                        const std::size_t constants = plan.queries_of_group() * care::cuda::kConstantsBytes;
                        const std::size_t needed = plan.block_groups * (plan.group_bytes() + constants);
                        const bool good = plan.column_groups * plan.queries_of_group() >= queries &&
                                          plan.column_groups % plan.block_groups == 0 &&
                                          plan.capacity >= plan.sample_pairs * care::cuda::kPair &&
                                          (plan.sample_pairs - 1) * plan.stride < plan.pairs &&
                                          plan.steps * 32 >= width &&
                                          needed + care::cuda::kStaticSharedBytes <= shared;
                        if (!good) std::printf("plan of %zu x %zu, %zu queries, k %zu\n", rows, width, queries, k);
                        hold &= good;
                    }
                }
            }
        }
    }
    return hold;
}

// How queries are divided among columns: as many for one read of the codes as there is shared memory for.
struct Division {
    std::size_t width, queries, shared_kib, max_columns, tiles, block_groups, column_groups;

    bool holds() const {
        const care::cuda::Plan plan =
            care::cuda::make_plan(1'000'000, width, 1'000'000, 10, queries, shared_kib * 1024, max_columns);
        const bool same = plan.tiles == tiles && plan.block_groups == block_groups && plan.column_groups == column_groups;
        if (!same) {
            std::printf("%zu queries of %zu values, %zu KiB: %zu tiles, %zu of %zu groups at once\n", queries, width,
                        shared_kib, plan.tiles, plan.block_groups, plan.column_groups);
        }
        return same;
    }
};

constexpr Division kDivisions[] = {
    // sm_90 has 227 KiB, sm_80 163 and sm_89 99.
    {768, 256, 227, 0, 16, 2, 2}, {768, 129, 227, 0, 16, 2, 2}, {768, 128, 227, 0, 16, 1, 1}, {768, 65, 227, 0, 16, 1, 1},
    {769, 256, 227, 0, 16, 1, 2}, {1536, 256, 227, 0, 16, 1, 2}, {1537, 256, 227, 0, 8, 1, 4}, {4096, 256, 227, 0, 4, 1, 8},
    {512, 256, 163, 0, 16, 2, 2}, {768, 256, 163, 0, 16, 1, 2}, {1024, 128, 163, 0, 16, 1, 1}, {1025, 128, 163, 0, 8, 1, 2},
    {256, 256, 99, 0, 16, 2, 2}, {512, 256, 99, 0, 16, 1, 2}, {768, 256, 99, 0, 8, 1, 4},
    // Up to 64 columns nothing depends on it.
    {768, 64, 227, 0, 8, 1, 1}, {768, 33, 227, 0, 8, 1, 1}, {768, 32, 227, 0, 4, 1, 1}, {768, 17, 227, 0, 4, 1, 1},
    {768, 16, 227, 0, 4, 1, 1}, {768, 1, 227, 0, 1, 1, 1},
    // Limited, as benchmarks do.
    {768, 256, 227, 64, 8, 1, 4}, {768, 256, 227, 128, 16, 1, 2}, {768, 256, 227, 256, 16, 2, 2}, {768, 16, 227, 64, 4, 1, 1},
};

// A case of many queries, on a GPU with so much shared memory that it is divided in one way. A real GPU is asked for as
// many columns at once.
struct Many {
    check::Case of;
    std::size_t shared_kib, max_columns, tiles, block_groups, column_groups;
    bool damaged = false;  // some norms of the index are NaN: such vectors are always rescored
};

constexpr Many kMany[] = {
    // One group of 128 columns, and one vector in the last pair; two of them, one after the other; two of 64, limited.
    {{8193, 40, 40, 65, 10, 1, 0, false}, 99, 0, 16, 1, 1},
    {{8193, 40, 40, 129, 10, 1, 0, false}, 61, 0, 16, 1, 2},
    {{8193, 40, 40, 70, 10, 1, 0, false}, 99, 64, 8, 1, 2},
    // Two groups at once, of which the second pass has one; vectors that are equal.
    {{8225, 24, 24, 257, 12, 1, 0, false, 1, 1, 500}, 99, 0, 16, 2, 2},
    // A prefix whose codes take several loads; a damaged file.
    {{8215, 150, 140, 130, 10, 1, 1, false}, 99, 0, 16, 2, 2, true},
    // A subset; pruning fails for two queries of the first group, and for the only one of the second.
    {{11300, 8, 8, 129, 5, 1, 0, true, 1e7f, 64, 0, true}, 99, 256, 16, 2, 2},
};

// Searches as `many` says, and writes what was found.
void search_many(const Many& many, const care::Matrix& vectors, const care::Codes& codes, const care::Matrix& queries,
                 const std::vector<std::uint16_t>* allowed, double* scores, std::int64_t* ids, std::int64_t* rescored) {
    const std::size_t k = many.of.k, allowed_count = allowed ? bits(*allowed) : vectors.rows;
#ifdef CARE_EMULATED
    emulated::shared_bytes = many.shared_kib * 1024;
    const std::size_t max_columns = many.max_columns;
#else
    const std::size_t max_columns = many.block_groups * many.tiles * care::cuda::kTileColumns;
#endif
    const auto search = [&](const care::Codes& of, const float* values, std::size_t first, std::size_t count) {
        const care::cuda::DeviceIndex index(vectors, of, 0);
        index.search_from_host({values, count, queries.width, k, allowed ? allowed->data() : nullptr, allowed_count,
                                scores + first * k, nullptr, ids + first * k, rescored + first, max_columns});
    };
    if (!many.damaged) return search(codes, queries.data, 0, queries.rows);
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    const std::size_t padded = care::blocks(vectors.rows) * care::kBlock, which = care::error_norm_count(vectors.width) - 1;
    std::vector<float> scales(codes.scales, codes.scales + padded), errors(codes.errors[which], codes.errors[which] + padded);
    // In no pair of the sample: a damaged vector is scored first, and may give a threshold that all reach.
    const std::size_t stride = care::cuda::make_plan(vectors.rows, 1, allowed_count, k, 1, 1 << 20).stride;
    for (std::size_t pair = 1; pair < vectors.rows / care::cuda::kPair; pair += stride) {
        for (const std::size_t row : {0, 3, 17, 30}) (row % 2 ? scales : errors)[pair * care::cuda::kPair + row] = kNaN;
    }
    std::vector<const float*> all(codes.errors, codes.errors + which + 1);
    all[which] = errors.data();
    care::Codes damaged = codes;
    damaged.scales = scales.data();
    damaged.errors = all.data();
    search(damaged, queries.data, 0, queries.rows);
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
    for (const Division& division : kDivisions) {
        ++checks;
        failures += !division.holds();
    }
#ifdef CARE_EMULATED
    emulated::machine.most_rows = 0;
#endif
    for (const Many& many : kMany) {
        const check::Case& c = many.of;
        checks += 2;
        failures += !Division{c.query_width, std::min(c.queries, care::cuda::kPassQueries), many.shared_kib, many.max_columns,
                              many.tiles, many.block_groups, many.column_groups}
                         .holds();
        failures += !check::Expected(c).holds("many queries", [&](const auto&... with) { search_many(many, with...); });
#ifdef CARE_EMULATED
        // It was divided so: rows of blocks read the same codes.
        ++checks;
        failures += std::exchange(emulated::machine.most_rows, 0) != many.column_groups / many.block_groups;
#endif
    }
    std::printf("%zu checks, %zu failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
