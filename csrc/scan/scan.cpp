// Divides a search into passes, tiles and threads. A pass over codes answers most queries; those for which pruning
// fails take a second pass over the float32 vectors.
#include "care/scan.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "arithmetic.hpp"
#include "hits.hpp"
#include "kernels/kernel.hpp"
#include "query_batch.hpp"
#include "scan_pass.hpp"

namespace care {
namespace {

// Queries of one pass, and the bytes of vectors that they share in the second-level cache.
constexpr std::size_t kPassQueries = 128;
constexpr std::size_t kTileBytes = 96 * 1024;
// Bounds of narrow vectors would take more memory than their codes.
constexpr std::size_t kMaxTileBlocks = 126;
// Up to so many queries memory bandwidth is the limit. Both terms cost nothing then, and larger tiles are read faster,
// as long as there are enough tiles for all threads to finish together.
constexpr std::size_t kFewQueries = 4;
constexpr std::size_t kFewQueriesTileBytes = 1536 * 1024, kMinTileBytes = 16 * 1024;
constexpr std::size_t kFewQueriesTiles = 64;
// Limits the hits of a pass, k of every query and thread, to 256 MiB.
constexpr std::size_t kPassHits = 16 * 1024 * 1024;
// With fewer bytes of codes times queries than this a thread takes longer to start than to do its share.
constexpr std::size_t kBytesPerThread = 512 * 1024;
// With a larger exponent of the index's unit, a query in these units would leave the range of float32.
constexpr int kMaxFloatExponent = 100;

FilterPlan plan_filters(const IndexView& index, std::size_t queries, bool by_floats) {
    const Kernel& kernel = index.kernel;
    if (by_floats) return {kernel.float_filter, false, true};
    const bool floats_fit = std::abs(index.codes.exponent) <= kMaxFloatExponent;
    FilterPlan plan{queries <= kFewQueries ? kernel.two_term_code_filter : kernel.code_filter, floats_fit,
                    false, queries > kFewQueries};
    if (queries == 1 && index.codes.int4 && index.query_width == index.vectors.width) {
        plan.int4_filter = kernel.int4_filter;
    }
    return plan;
}

// Searches for the queries `which`, by codes or by floats, and returns those for which pruning failed.
std::vector<std::size_t> run_pass(const IndexView& index, const Matrix& queries, const std::vector<std::size_t>& which,
                                  bool by_floats, double* scores, std::int64_t* ids, std::int64_t* rescored) {
    std::vector<const float*> rows;
    for (const std::size_t q : which) rows.push_back(queries.data + q * queries.width);
    QueryBatch batch(index, rows.data(), rows.size());
    if (by_floats) batch.use_floats();

    const bool few = which.size() <= kFewQueries;
    const FilterPlan plan = plan_filters(index, which.size(), by_floats);
    if (plan.int4_filter) batch.use_int4(index);
    const std::size_t width = index.vectors.width;
    const std::size_t bytes = by_floats ? kBlock * width * sizeof(float) : block_bytes(width);
    const std::size_t all_bytes = blocks(index.vectors.rows) * bytes;
    const std::size_t tile_bytes = few ? std::clamp(all_bytes / kFewQueriesTiles, kMinTileBytes, kFewQueriesTileBytes)
                                       : std::min(kTileBytes, kMaxTileBlocks * bytes);
    // Whole register tiles, and the nearest number of them.
    const std::size_t multiple = few || by_floats ? 4 : kRegisterTileBlocks;
    const std::size_t tile_blocks = std::max<std::size_t>(1, (tile_bytes / bytes + multiple / 2) / multiple) * multiple;
    const std::size_t work = all_bytes * (few ? 1 : which.size() / kFewQueries);
    const std::size_t workers =
        std::clamp<std::size_t>(work / kBytesPerThread, 1, std::max<std::size_t>(1, index.options.threads));

    ScanPass pass(index, batch, plan);
    pass.run(workers, tile_blocks);
    const std::size_t k = index.options.k;
    std::vector<std::size_t> failed;
    for (std::size_t i = 0; i < which.size(); ++i) {
        const std::size_t q = which[i];
        if (pass.pruning_failed(i)) {
            failed.push_back(q);
        } else {
            write_hits(pass.hits(i, rescored[q]), k, scores + q * k, ids + q * k);
        }
    }
    return failed;
}

}  // namespace

void search(const Matrix& vectors, const Codes& codes, const Matrix& queries, const SearchOptions& options,
            double* scores, std::int64_t* ids, std::int64_t* rescored) {
    const DefaultFloatEnvironment environment;
    const IndexView index{vectors, codes, options, kernel(options.instruction_set), queries.width};
    std::fill_n(rescored, queries.rows, std::int64_t{0});
    const std::size_t hits =
        std::max<std::size_t>(1, std::min(options.k, vectors.rows)) * std::max<std::size_t>(1, options.threads);
    const std::size_t pass_queries = std::clamp<std::size_t>(kPassHits / hits, 1, kPassQueries);
    for (std::size_t start = 0; start < queries.rows; start += pass_queries) {
        std::vector<std::size_t> which(std::min(pass_queries, queries.rows - start));
        std::iota(which.begin(), which.end(), start);
        which = run_pass(index, queries, which, false, scores, ids, rescored);
        if (!which.empty()) run_pass(index, queries, which, true, scores, ids, rescored);
    }
}

void as_float32(const double* scores, std::size_t count, float* rounded) {
    const DefaultFloatEnvironment environment;
    std::transform(scores, scores + count, rounded, [](double score) { return static_cast<float>(score); });
}

std::vector<std::string_view> instruction_sets() {
    std::vector<std::string_view> names;
    for (const Kernel& known : kernels()) names.push_back(known.instruction_set);
    return names;
}

}  // namespace care
