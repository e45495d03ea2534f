// Scores given vectors exactly, without codes.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "arithmetic.hpp"
#include "care/scan.hpp"
#include "care/score.hpp"
#include "hits.hpp"
#include "kernels/kernel.hpp"
#include "../threads/workers.hpp"

namespace care {
namespace {

// Bytes of vectors that all queries share in the second-level cache.
constexpr std::size_t kChunkBytes = 96 * 1024;
// With fewer bytes of vectors times queries than this a thread takes longer to start than to do its share.
constexpr std::size_t kSubsetBytesPerThread = 4 * 1024 * 1024;

// Queries in float64, padded with zeros to whole lanes.
std::vector<double> padded_doubles(const Matrix& queries, std::size_t stride) {
    std::vector<double> doubles(queries.rows * stride);
    for (std::size_t q = 0; q < queries.rows; ++q) {
        std::copy_n(queries.data + q * queries.width, queries.width, doubles.data() + q * stride);
    }
    return doubles;
}

void prefetch(const float* vector, std::size_t width) {
    for (std::size_t at = 0; at < width; at += 64 / sizeof(float)) __builtin_prefetch(vector + at);
}

// Rows that are on their way from memory while others are scored.
constexpr std::size_t kAhead = 4 * kScoredTogether;

}  // namespace

void search_candidates(const Matrix& vectors, const std::int64_t* rows, std::size_t count, const float* query,
                       const SearchOptions& options, double* scores, std::int64_t* ids) {
    const std::size_t width = vectors.width;
    const auto vector_of = [&](std::size_t i) { return vectors.data + static_cast<std::size_t>(rows[i]) * width; };
    for (std::size_t i = 0; i < std::min(count, kAhead); ++i) prefetch(vector_of(i), width);

    const DefaultFloatEnvironment environment;
    Scores* const score_together = kernel(options.instruction_set).scores;
    const std::vector<double> doubles = padded_doubles({query, 1, width}, (width + kLanes - 1) / kLanes * kLanes);
    TopK best(options.k);
    for (std::size_t i = 0; i < count; i += kScoredTogether) {
        const float* together[kScoredTogether];
        for (std::size_t c = 0; c < kScoredTogether; ++c) {
            together[c] = vector_of(std::min(i + c, count - 1));
            if (i + kAhead + c < count) prefetch(vector_of(i + kAhead + c), width);
        }
        double found[kScoredTogether];
        score_together(together, doubles.data(), width, found);
        const std::size_t scored = std::min(kScoredTogether, count - i);
        for (std::size_t c = 0; c < scored; ++c) best.push({found[c], rows[i + c]});
    }
    write_hits(best.sorted(), options.k, scores, ids);
}

void search_rows(const Matrix& vectors, const std::int64_t* rows, std::size_t count, const Matrix& queries,
                 const SearchOptions& options, double* scores, std::int64_t* ids) {
    const DefaultFloatEnvironment environment;
    Scores* const score_together = kernel(options.instruction_set).scores;
    const std::size_t width = queries.width, stride = (width + kLanes - 1) / kLanes * kLanes;
    const std::vector<double> doubles = padded_doubles(queries, stride);
    const auto vector_of = [&](std::size_t i) {
        return vectors.data + static_cast<std::size_t>(rows[i]) * vectors.width;
    };

    const std::size_t bytes = std::max<std::size_t>(1, width * sizeof(float));
    const std::size_t chunk = std::max<std::size_t>(1, kChunkBytes / bytes / kScoredTogether) * kScoredTogether;
    const std::size_t work = count * bytes * std::max<std::size_t>(1, queries.rows / 4);
    const std::size_t workers =
        std::clamp<std::size_t>(work / kSubsetBytesPerThread, 1, std::max<std::size_t>(1, options.threads));
    std::vector<std::vector<TopK>> best(workers);
    std::atomic<std::size_t> next{0};
    run_workers(workers, [&](std::size_t worker) {
        std::vector<TopK>& own = best[worker];
        own.assign(queries.rows, TopK(options.k));
        for (std::size_t start; (start = next.fetch_add(chunk, std::memory_order_relaxed)) < count;) {
            const std::size_t end = std::min(count, start + chunk);
            for (std::size_t q = 0; q < queries.rows; ++q) {
                const double* query = doubles.data() + q * stride;
                for (std::size_t i = start; i < end; i += kScoredTogether) {
                    const float* together[kScoredTogether];
                    for (std::size_t c = 0; c < kScoredTogether; ++c) {
                        together[c] = vector_of(std::min(i + c, end - 1));
                        const std::size_t later = i + kScoredTogether + c;
                        if (q == 0 && later < count) prefetch(vector_of(later), width);
                    }
                    double found[kScoredTogether];
                    score_together(together, query, width, found);
                    const std::size_t scored = std::min(kScoredTogether, end - i);
                    for (std::size_t c = 0; c < scored; ++c) own[q].push({found[c], rows[i + c]});
                }
            }
        }
    });
    for (std::size_t q = 0; q < queries.rows; ++q) {
        TopK merged(options.k);
        for (const std::vector<TopK>& own : best) {
            if (!own.empty()) merged.merge(own[q]);  // empty if the system refused this worker's thread
        }
        write_hits(merged.sorted(), options.k, scores + q * options.k, ids + q * options.k);
    }
}

}  // namespace care
