#include "care/scan.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <limits>

#include "care/score.hpp"
#include "care/topk.hpp"
#include "kernels.hpp"
#include "workers.hpp"

namespace care {
namespace {

// A tile of rows stays in the second-level cache while the queries of a pass go over it.
constexpr std::size_t kTileBytes = 128 * 1024;
constexpr std::size_t kMostTileRows = 256;
constexpr std::size_t kPassQueries = 64;
// Bounds what a pass collects, 256 MiB, when k is large.
constexpr std::size_t kPassHits = 16 * 1024 * 1024;
// With fewer products than this a thread takes longer to start than to do its share.
constexpr std::size_t kProductsPerThread = 1024 * 1024;

// Rounding to nearest, denormals kept: in this thread and those it starts, whatever the caller has set.
class DefaultArithmetic {
public:
    DefaultArithmetic() {
        std::fegetenv(&callers_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultArithmetic() { std::fesetenv(&callers_); }
    DefaultArithmetic(const DefaultArithmetic&) = delete;
    DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

private:
    std::fenv_t callers_;
};

std::vector<double> widen(const Matrix& queries, std::size_t stride) {
    std::vector<double> widened(queries.rows * stride);
    for (std::size_t q = 0; q < queries.rows; ++q) {
        std::copy_n(queries.data + q * queries.width, queries.width, widened.data() + q * stride);
    }
    return widened;
}

void write(const std::vector<Hit>& hits, std::size_t k, float* scores, std::int64_t* ids) {
    for (std::size_t i = 0; i < k; ++i) {
        const bool found = i < hits.size();
        scores[i] = found ? static_cast<float>(hits[i].score) : -std::numeric_limits<float>::infinity();
        ids[i] = found ? hits[i].id : -1;
    }
}

// Reads the documents once, for a few queries.
void run_pass(const Matrix& documents, const Matrix& queries, std::size_t k, std::size_t threads,
              const Kernel& kernel, float* scores, std::int64_t* ids) {
    const std::size_t width = documents.width, stride = (width + kLanes - 1) / kLanes * kLanes;
    const std::vector<double> widened = widen(queries, stride);
    const std::size_t tile_rows = std::clamp<std::size_t>(kTileBytes / (width * sizeof(float)), 1, kMostTileRows);
    const std::size_t products = documents.rows * width * queries.rows;
    const std::size_t workers = std::clamp<std::size_t>(products / kProductsPerThread, 1, threads);

    std::vector<std::vector<TopK>> best(workers);  // by worker and query
    std::atomic<std::size_t> next_row{0};
    run_workers(workers, [&](std::size_t worker) {
        std::vector<TopK>& kept = best[worker];
        kept.assign(queries.rows, TopK(k));
        std::vector<double> tile(queries.rows * tile_rows);
        for (std::size_t start; (start = next_row.fetch_add(tile_rows)) < documents.rows;) {
            const std::size_t count = std::min(tile_rows, documents.rows - start);
            kernel.tile_scores(documents.data + start * width, count, width, widened.data(), queries.rows, stride,
                               tile.data());
            for (std::size_t q = 0; q < queries.rows; ++q) {
                for (std::size_t r = 0; r < count; ++r) {
                    kept[q].push({tile[q * count + r], static_cast<std::int64_t>(start + r)});
                }
            }
        }
    });
    for (std::size_t q = 0; q < queries.rows; ++q) {
        for (std::size_t worker = 1; worker < workers; ++worker) {
            if (!best[worker].empty()) best[0][q].merge(best[worker][q]);  // empty: its thread was refused
        }
        write(best[0][q].sorted(), k, scores + q * k, ids + q * k);
    }
}

}  // namespace

void scan(const Matrix& documents, const Matrix& queries, std::size_t k, std::size_t threads, float* scores,
          std::int64_t* ids, std::string_view instruction_set) {
    const DefaultArithmetic arithmetic;
    const Kernel& chosen = kernel(instruction_set);
    threads = std::max<std::size_t>(1, threads);
    const std::size_t hits = std::max<std::size_t>(1, std::min(k, documents.rows)) * threads;
    const std::size_t pass = std::clamp<std::size_t>(kPassHits / hits, 1, kPassQueries);
    for (std::size_t q = 0; q < queries.rows; q += pass) {
        const Matrix some{queries.data + q * queries.width, std::min(pass, queries.rows - q), queries.width};
        run_pass(documents, some, k, threads, chosen, scores + q * k, ids + q * k);
    }
}

std::vector<std::string_view> instruction_sets() {
    std::vector<std::string_view> names;
    for (const Kernel& known : kernels()) names.push_back(known.instruction_set);
    return names;
}

}  // namespace care
